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

// Up to here a node less, which is a barrier less, is worth more than storing and sealing with all threads.
constexpr int64_t FEW_TOKENS = 16;

enum { A_Q, A_MASK, A_TABLE, A_K_PAGES, A_V_PAGES, A_K_CODES, A_V_CODES, A_META, A_SINKS };
enum { S_META, S_TABLE, S_K_PAGES, S_V_PAGES, S_K_CODES, S_V_CODES, S_K, S_V, S_ROWS };

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

xq_layer_view sealing_view(const ggml_tensor * dst, void * userdata) {
    const auto & src = dst->src;
    return view_of(*(const xq_layer *) userdata, src[S_K_PAGES], src[S_V_PAGES], src[S_K_CODES], src[S_V_CODES], src[S_META]);
}

// A token's new row of one head into its page, as f16; values rotated, where the layer rotates them.
void store(const ggml_tensor * dst, const xq_layer_view & view, int64_t token, int64_t head) {
    const int64_t row = ((const int64_t *) dst->src[S_ROWS]->data)[token];
    const auto from = [&](const ggml_tensor * t) { return (const float *) ((const char *) t->data + head*t->nb[1] + token*t->nb[2]); };
    ggml_fp32_to_fp16_row(from(dst->src[S_K]), (ggml_fp16_t *) view.k_pages + row*view.k_row + head*view.dk, view.dk);
    const float * v = from(dst->src[S_V]);
    float rotated[XQ_MAX_HEAD_DIM];
    if (view.v.rot) {
        std::memcpy(rotated, v, sizeof(float)*view.dv);
        xq_cpu().rotate(rotated, view.dv, view.v.rot);
        v = rotated;
    }
    ggml_fp32_to_fp16_row(v, (ggml_fp16_t *) view.v_pages + row*view.v_row + head*view.dv, view.dv);
}

void store_op(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const xq_layer_view view = sealing_view(dst, userdata);
    const int64_t heads = view.n_head_kv, n = heads*dst->src[S_K]->ne[2];
    for (int64_t i = ith; i < n; i += nth) {
        store(dst, view, i / heads, i % heads);
    }
}

void seal_op(ggml_tensor * dst, int ith, int nth, void * userdata) {
    xq_seal_tiles(xq_cpu(), sealing_view(dst, userdata), (const int32_t *) dst->src[S_TABLE]->data, ith, nth);
}

// Both in one node, for few tokens: a thread seals only the heads whose rows it has stored itself.
void store_and_seal_op(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const xq_layer_view view = sealing_view(dst, userdata);
    for (int head = ith; head < view.n_head_kv; head += nth) {
        for (int64_t token = 0; token < dst->src[S_K]->ne[2]; ++token) {
            store(dst, view, token, head);
        }
        xq_seal_head(xq_cpu(), view, (const int32_t *) dst->src[S_TABLE]->data, head);
    }
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

// f32 rows whose heads are contiguous; heads and tokens may lie anywhere.
ggml_tensor * rows_of(ggml_context * ctx, ggml_tensor * cur) {
    return cur->type == GGML_TYPE_F32 && cur->nb[0] == sizeof(float) ? cur : ggml_cast(ctx, cur, GGML_TYPE_F32);
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
        ggml_tensor * src[] = {table, k_pages, v_pages, layer->k_codes, layer->v_codes, rows_of(ctx, k_cur), rows_of(ctx, v_cur), k_idxs};
        const auto node = [&](ggml_custom_op_t op, const char * name) {
            meta = ggml_custom_inplace(ctx, meta, src, 8, op, GGML_N_TASKS_MAX, userdata);
            ggml_format_name(meta, "%s-%d", name, il);
            ggml_build_forward_expand(gf, meta);
        };
        if (k_cur->ne[2] <= FEW_TOKENS) {
            node(store_and_seal_op, "xq_store");
        } else {
            node(store_op, "xq_store");
            node(seal_op, "xq_seal");
        }
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
