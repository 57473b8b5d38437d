#include "graph/graph.h"

#include "cache/cache.h"
#include "format/xq_table.h"
#include "kernels/cpu/attend.h"

#include "llama-hparams.h"
#include "llama-impl.h"

#include <cstring>
#include <stdexcept>

namespace {

struct attn_params {
    float scale;
    float softcap;  // 0: off
    float max_bias; // ALiBi; 0: off
};

// ggml keeps the callback in the first op_params; ours follow.
constexpr int PARAMS_AT = 12;
static_assert(PARAMS_AT*sizeof(int32_t) + sizeof(attn_params) <= GGML_MAX_OP_PARAMS, "op_params are full");

enum { A_Q, A_MASK, A_TABLE, A_K_PAGES, A_V_PAGES, A_K_CODES, A_V_CODES, A_META, A_SINKS };
enum { S_META, S_TABLE, S_K_PAGES, S_V_PAGES, S_K_CODES, S_V_CODES };

xq_layer_view view_of(const xq_layer & layer, const ggml_tensor * k_pages, const ggml_tensor * v_pages,
                      const ggml_tensor * k_codes, const ggml_tensor * v_codes, const ggml_tensor * meta) {
    xq_layer_view v = layer.view();
    v.k_pages = (uint16_t *) k_pages->data;
    v.v_pages = (uint16_t *) v_pages->data;
    v.k_codes = (uint32_t *) k_codes->data;
    v.v_codes = (uint32_t *) v_codes->data;
    v.k_meta  = (uint8_t *) meta->data;
    v.v_meta  = v.k_meta + layer.k_meta_size();
    return v;
}

void seal_op(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto & src = dst->src;
    const auto view = view_of(*(const xq_layer *) userdata, src[S_K_PAGES], src[S_V_PAGES], src[S_K_CODES], src[S_V_CODES], src[S_META]);
    xq_seal_tiles(xq_cpu(), view, (const int32_t *) src[S_TABLE]->data, ith, nth);
}

void attend_op(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto & src = dst->src;
    const ggml_tensor * q = src[A_Q], * mask = src[A_MASK];
    attn_params p;
    std::memcpy(&p, (const int32_t *) dst->op_params + PARAMS_AT, sizeof(p));

    xq_attend_args a{};
    a.layer = view_of(*(const xq_layer *) userdata, src[A_K_PAGES], src[A_V_PAGES], src[A_K_CODES], src[A_V_CODES], src[A_META]);
    a.q = (const float *) q->data;
    a.q_token = q->nb[2]/sizeof(float);
    a.q_head  = q->nb[1]/sizeof(float);
    a.mask = (const uint16_t *) mask->data;
    a.mask_token  = mask->nb[1]/sizeof(uint16_t);
    a.mask_stream = mask->nb[3]/sizeof(uint16_t);
    a.table = (const int32_t *) src[A_TABLE]->data;
    a.sinks = src[A_SINKS] ? (const float *) src[A_SINKS]->data : nullptr;
    a.n_head = (int) q->ne[1];
    a.n_tokens = (int) q->ne[2];
    a.n_stream = (int) mask->ne[3];
    a.n_kv = (int) mask->ne[0];
    a.scale = p.scale; a.softcap = p.softcap; a.max_bias = p.max_bias;
    a.out = (float *) dst->data;
    a.n_parts = (int) dst->ne[3];
    xq_attend(xq_cpu(), a, ith, nth);
}

void combine_op(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const ggml_tensor * parts = dst->src[0];
    const float * sinks = dst->src[1] ? (const float *) dst->src[1]->data : nullptr;
    xq_combine(xq_cpu(), (const float *) parts->data, (float *) dst->data, sinks, (int) dst->ne[0], ((const xq_layer *) userdata)->plan.v.rot,
               (int) dst->ne[1], (int) dst->ne[2], (int) parts->ne[3], ith, nth);
}

void rotate_op(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const ggml_tensor * v = dst->src[0];
    const int64_t dv = v->ne[0], heads = v->ne[1], rows = heads*v->ne[2];
    for (int64_t r = ith; r < rows; r += nth) {
        float * out = (float *) dst->data + r*dv;
        std::memcpy(out, (const char *) v->data + (r % heads)*v->nb[1] + (r / heads)*v->nb[2], dv*sizeof(float));
        xq_cpu().rotate(out, (int) dv, ((const xq_layer *) userdata)->plan.v.rot);
    }
}

// Values as the cache keeps them: rotated, where the layer rotates them.
ggml_tensor * rotated(ggml_context * ctx, const xq_layer & layer, ggml_tensor * v, void * userdata) {
    if (layer.plan.v.rot == 0) {
        return v;
    }
    if (v->type != GGML_TYPE_F32 || v->nb[0] != sizeof(float)) {
        v = ggml_cast(ctx, v, GGML_TYPE_F32);
    }
    ggml_tensor * src[] = {v};
    ggml_tensor * out = ggml_custom_4d(ctx, GGML_TYPE_F32, v->ne[0], v->ne[1], v->ne[2], 1, src, 1, rotate_op, GGML_N_TASKS_MAX, userdata);
    ggml_format_name(out, "xq_rotate-%d", layer.plan.shape.il);
    return out;
}

ggml_tensor * store(ggml_context * ctx, ggml_tensor * pages, ggml_tensor * cur, ggml_tensor * idxs) {
    const int64_t n = cur->ne[0]*cur->ne[1];
    if (cur->nb[1] != ggml_row_size(cur->type, cur->ne[0])) {
        cur = ggml_cont(ctx, cur); // heads must lie side by side
    }
    cur   = ggml_view_2d(ctx, cur, n, cur->ne[2], cur->nb[2], 0);
    pages = ggml_reshape_2d(ctx, pages, n, pages->ne[1]*pages->ne[2]);
    return ggml_set_rows(ctx, pages, cur, idxs);
}

[[noreturn]] void refuse(const std::string & text) {
    xq_set_error(text);
    throw std::runtime_error(text);
}

} // namespace

void xq_refuse_view(int il) {
    refuse("xquant: every layer's attention must have a packed form; got layer " + std::to_string(il) +
           " without one; use kv=\"f16\" or a stock type for this model");
}

bool xq_refuse_shift(const char * what) {
    LLAMA_LOG_ERROR("xquant: %s: a packed cache cannot shift positions; remove tokens with seq_rm and evaluate them again\n", what);
    return true;
}

ggml_tensor * xq_build_attn(ggml_context * ctx, ggml_cgraph * gf, const xq_cache & cache, const llama_hparams & hparams, int il,
                            ggml_tensor * q, ggml_tensor * k_cur, ggml_tensor * v_cur,
                            ggml_tensor * k_idxs, ggml_tensor * table, ggml_tensor * mask, ggml_tensor * sinks,
                            ggml_tensor * kq_b, float kq_scale) {
    const xq_layer * layer = cache.find(il);
    if (kq_b || !layer || mask->type != GGML_TYPE_F16) {
        xq_refuse_view(il);
    }
    void * userdata = const_cast<xq_layer *>(layer); // ggml passes it on as it is; the callbacks only read
    ggml_tensor * k_pages = layer->k_pages, * v_pages = layer->v_pages, * meta = layer->meta;
    if (k_cur && v_cur) {
        k_pages = store(ctx, k_pages, k_cur, k_idxs);
        v_pages = store(ctx, v_pages, rotated(ctx, *layer, v_cur, userdata), k_idxs);
        ggml_tensor * seal_src[] = {table, k_pages, v_pages, layer->k_codes, layer->v_codes};
        meta = ggml_custom_inplace(ctx, meta, seal_src, 5, seal_op, GGML_N_TASKS_MAX, userdata);
        ggml_format_name(meta, "xq_seal-%d", il);
        ggml_build_forward_expand(gf, meta);
    }
    if (q->type != GGML_TYPE_F32 || q->nb[0] != sizeof(float)) {
        q = ggml_cast(ctx, q, GGML_TYPE_F32);
    }
    const int64_t dv = layer->plan.shape.dv, n_head = q->ne[1], n_tokens = q->ne[2];
    const int n_parts = xq_attend_parts((int) n_tokens, (int) mask->ne[3], layer->plan.shape.n_head_kv, (int) n_head, (int) mask->ne[0], (int) dv);

    ggml_tensor * src[] = {q, mask, table, k_pages, v_pages, layer->k_codes, layer->v_codes, meta, sinks};
    ggml_tensor * cur = ggml_custom_4d(ctx, GGML_TYPE_F32, n_parts > 1 ? dv + 2 : dv, n_head, n_tokens, n_parts, src, sinks ? 9 : 8,
                                       attend_op, GGML_N_TASKS_MAX, userdata);
    const attn_params params = {kq_scale, hparams.attn_soft_cap ? hparams.f_attn_logit_softcapping : 0.0f, hparams.f_max_alibi_bias};
    std::memcpy((int32_t *) cur->op_params + PARAMS_AT, &params, sizeof(params));
    ggml_format_name(cur, "xq_attend-%d", il);
    if (n_parts > 1) {
        ggml_tensor * parts[] = {cur, sinks};
        cur = ggml_custom_4d(ctx, GGML_TYPE_F32, dv, n_head, n_tokens, 1, parts, sinks ? 2 : 1, combine_op, GGML_N_TASKS_MAX, userdata);
        ggml_format_name(cur, "xq_combine-%d", il);
    }
    cur = ggml_reshape_2d(ctx, cur, dv*n_head, n_tokens);
    ggml_build_forward_expand(gf, cur);
    return cur;
}
