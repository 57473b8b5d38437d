#include "graph/nodes.h"

#include "kernels/cpu/attend.h"

namespace {

xq_layer_view view_of(const void * userdata, const ggml_tensor * k_pages, const ggml_tensor * v_pages, const ggml_tensor * k_codes,
                      const ggml_tensor * v_codes, const ggml_tensor * meta) {
    const xq_node_layer & l = *(const xq_node_layer *) userdata;
    xq_layer_view v{};
    v.dk = l.dk; v.dv = l.dv; v.n_head_kv = l.n_head_kv;
    v.k = l.k; v.v = l.v;
    v.k_code_stream = l.k_code_stream; v.v_code_stream = l.v_code_stream;
    v.meta_stream = l.meta_stream;
    v.page_stream = l.page_stream;
    v.k_row = l.k_row; v.v_row = l.v_row;
    v.k_leads = l.k_leads; v.v_leads = l.v_leads;
    v.k_pages = (uint16_t *) k_pages->data;
    v.v_pages = (uint16_t *) v_pages->data;
    v.k_codes = (uint32_t *) k_codes->data;
    v.v_codes = (uint32_t *) v_codes->data;
    v.k_meta  = (uint8_t *) meta->data;
    v.v_meta  = v.k_meta + l.v_meta_at;
    return v;
}

xq_layer_view sealing_view(const ggml_tensor * dst, const void * userdata) {
    const auto & src = dst->src;
    return view_of(userdata, src[XQ_S_K_PAGES], src[XQ_S_V_PAGES], src[XQ_S_K_CODES], src[XQ_S_V_CODES], src[XQ_S_META]);
}

// A token's new row of one head into its page, as f16; values rotated, where the layer rotates them.
void store(const ggml_tensor * dst, const xq_layer_view & view, int64_t token, int64_t head) {
    const int64_t row = ((const int64_t *) dst->src[XQ_S_ROWS]->data)[token];
    const auto from = [&](const ggml_tensor * t) { return (const float *) ((const char *) t->data + head*t->nb[1] + token*t->nb[2]); };
    ggml_fp32_to_fp16_row(from(dst->src[XQ_S_K]), (ggml_fp16_t *) view.k_pages + row*view.k_row + head*view.dk, view.dk);
    const float * v = from(dst->src[XQ_S_V]);
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
    const int64_t heads = view.n_head_kv, n = heads*dst->src[XQ_S_K]->ne[2];
    for (int64_t i = ith; i < n; i += nth) {
        store(dst, view, i / heads, i % heads);
    }
}

void seal_op(ggml_tensor * dst, int ith, int nth, void * userdata) {
    xq_seal_tiles(xq_cpu(), sealing_view(dst, userdata), (const int32_t *) dst->src[XQ_S_TABLE]->data, ith, nth);
}

// Both in one node, for few tokens: a thread seals only the heads whose rows it has stored itself.
void store_and_seal_op(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const xq_layer_view view = sealing_view(dst, userdata);
    for (int head = ith; head < view.n_head_kv; head += nth) {
        for (int64_t token = 0; token < dst->src[XQ_S_K]->ne[2]; ++token) {
            store(dst, view, token, head);
        }
        xq_seal_head(xq_cpu(), view, (const int32_t *) dst->src[XQ_S_TABLE]->data, head);
    }
}

void attend_op(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto & src = dst->src;
    const ggml_tensor * q = src[XQ_A_Q], * mask = src[XQ_A_MASK];
    xq_node node;
    GGML_ASSERT(xq_node_read(dst, node));

    xq_attend_args a{};
    a.layer = view_of(userdata, src[XQ_A_K_PAGES], src[XQ_A_V_PAGES], src[XQ_A_K_CODES], src[XQ_A_V_CODES], src[XQ_A_META]);
    a.q = (const float *) q->data;
    a.q_token = q->nb[2]/sizeof(float);
    a.q_head  = q->nb[1]/sizeof(float);
    a.mask = (const uint16_t *) mask->data;
    a.mask_token  = mask->nb[1]/sizeof(uint16_t);
    a.mask_stream = mask->nb[3]/sizeof(uint16_t);
    a.table = (const int32_t *) src[XQ_A_TABLE]->data;
    a.sinks = src[XQ_A_SINKS] ? (const float *) src[XQ_A_SINKS]->data : nullptr;
    a.n_head = (int) q->ne[1];
    a.n_tokens = (int) q->ne[2];
    a.n_stream = (int) mask->ne[3];
    a.n_kv = (int) mask->ne[0];
    a.scale = node.scale; a.softcap = node.softcap; a.max_bias = node.max_bias;
    a.out = (float *) dst->data;
    a.n_parts = (int) dst->ne[3];
    xq_attend(xq_cpu(), a, ith, nth);
}

void combine_op(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const ggml_tensor * parts = dst->src[XQ_C_PARTS], * sinks = dst->src[XQ_C_SINKS];
    xq_combine(xq_cpu(), (const float *) parts->data, (float *) dst->data, sinks ? (const float *) sinks->data : nullptr, (int) dst->ne[0],
               ((const xq_node_layer *) userdata)->v.rot, (int) dst->ne[1], (int) dst->ne[2], (int) parts->ne[3], ith, nth);
}

// ggml passes userdata on as it is; the callbacks only read.
void * userdata_of(const xq_node_layer & layer) { return const_cast<xq_node_layer *>(&layer); }

xq_node node_of(const xq_node_layer & layer, xq_node_kind kind) {
    xq_node node{};
    node.layer = &layer;
    node.kind  = kind;
    return node;
}

} // namespace

ggml_tensor * xq_node_seal(ggml_context * ctx, xq_node_kind kind, const xq_node_layer & layer, const xq_node_planes & planes,
                           ggml_tensor * table, ggml_tensor * k, ggml_tensor * v, ggml_tensor * rows) {
    ggml_tensor * src[] = {table, planes.k_pages, planes.v_pages, planes.k_codes, planes.v_codes, k, v, rows};
    const ggml_custom_op_t op = kind == XQ_NODE_STORE ? store_op : kind == XQ_NODE_SEAL ? seal_op : store_and_seal_op;
    ggml_tensor * node = ggml_custom_inplace(ctx, planes.meta, src, 8, op, GGML_N_TASKS_MAX, userdata_of(layer));
    xq_node_write(node, node_of(layer, kind));
    return node;
}

ggml_tensor * xq_node_attend(ggml_context * ctx, const xq_node_layer & layer, const xq_node_planes & planes, ggml_tensor * table,
                             ggml_tensor * q, ggml_tensor * mask, ggml_tensor * sinks, xq_attend_params params, int n_parts) {
    ggml_tensor * src[] = {q, mask, table, planes.k_pages, planes.v_pages, planes.k_codes, planes.v_codes, planes.meta, sinks};
    ggml_tensor * cur = ggml_custom_4d(ctx, GGML_TYPE_F32, n_parts > 1 ? layer.dv + 2 : layer.dv, q->ne[1], q->ne[2], n_parts, src,
                                       sinks ? 9 : 8, attend_op, GGML_N_TASKS_MAX, userdata_of(layer));
    xq_node node = node_of(layer, XQ_NODE_ATTEND);
    node.scale = params.scale; node.softcap = params.softcap; node.max_bias = params.max_bias;
    xq_node_write(cur, node);
    return cur;
}

ggml_tensor * xq_node_combine(ggml_context * ctx, const xq_node_layer & layer, ggml_tensor * parts, ggml_tensor * sinks) {
    ggml_tensor * src[] = {parts, sinks};
    ggml_tensor * cur = ggml_custom_4d(ctx, GGML_TYPE_F32, layer.dv, parts->ne[1], parts->ne[2], 1, src, sinks ? 2 : 1, combine_op,
                                       GGML_N_TASKS_MAX, userdata_of(layer));
    xq_node_write(cur, node_of(layer, XQ_NODE_COMBINE));
    return cur;
}
