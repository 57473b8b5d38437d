// What a node's tensors mean to the kernels, for the host side of a backend: arguments without addresses. Included behind
// args.h and launch.h.
#pragma once

#include "graph/node.h"
#include "kernels/gpu/args.h"
#include "kernels/gpu/launch.h"

inline xqg_layer xqg_layer_of(const xq_node_layer & n) {
    xqg_layer l{};
    l.k = n.k; l.v = n.v;
    l.k_code_stream = n.k_code_stream; l.v_code_stream = n.v_code_stream;
    l.meta_stream = n.meta_stream;
    l.page_stream = n.page_stream;
    l.k_row = n.k_row; l.v_row = n.v_row;
    l.dk = n.dk; l.dv = n.dv; l.n_head_kv = n.n_head_kv;
    l.k_leads = n.k_leads; l.v_leads = n.v_leads;
    return l;
}

inline bool xqg_stores(const xq_node & n) { return n.kind == XQ_NODE_STORE || n.kind == XQ_NODE_STORE_AND_SEAL; }
inline bool xqg_seals(const xq_node & n)  { return n.kind == XQ_NODE_SEAL || n.kind == XQ_NODE_STORE_AND_SEAL; }

inline xqg_store_args xqg_store_args_of(const ggml_tensor * dst, const xq_node & n) {
    const ggml_tensor * k = dst->src[XQ_S_K], * v = dst->src[XQ_S_V];
    xqg_store_args a{};
    a.layer    = xqg_layer_of(*n.layer);
    a.k_head   = (xqg_size) (k->nb[1]/sizeof(float));
    a.k_token  = (xqg_size) (k->nb[2]/sizeof(float));
    a.v_head   = (xqg_size) (v->nb[1]/sizeof(float));
    a.v_token  = (xqg_size) (v->nb[2]/sizeof(float));
    a.n_tokens = (int) k->ne[2];
    return a;
}

// What attention computes, and which body does.
struct xqg_attention {
    xqg_attend_args a;
    bool batch;
};

// Of the whole micro-batch; parts of the graph where it has them, one for every chunk, as on the CPU. limit: of a block's
// shared memory, in bytes.
inline xqg_attention xqg_attention_of(const ggml_tensor * dst, const xq_node & n, int limit) {
    const ggml_tensor * q = dst->src[XQ_A_Q], * mask = dst->src[XQ_A_MASK];
    xqg_attend_args a{};
    a.layer   = xqg_layer_of(*n.layer);
    a.q_token = (xqg_size) (q->nb[2]/sizeof(float));
    a.q_head  = (xqg_size) (q->nb[1]/sizeof(float));
    a.mask_token  = (xqg_size) (mask->nb[1]/sizeof(uint16_t));
    a.mask_stream = (xqg_size) (mask->nb[3]/sizeof(uint16_t));
    a.n_head = (int) q->ne[1];
    a.n_tokens = a.table_tokens = (int) q->ne[2];
    a.n_stream = (int) mask->ne[3];
    a.n_kv = (int) mask->ne[0];
    a.scale = n.scale; a.softcap = n.softcap; a.max_bias = n.max_bias;
    const int rows = a.n_tokens/a.n_stream*(a.n_head/a.layer.n_head_kv);
    const bool parts = dst->ne[3] > 1, batch = !parts && xqg_is_batch(rows, a.layer.dk, a.layer.dv, limit);
    a.span = parts ? 1 : batch ? xqg_batch_span(a.n_kv) : xqg_span(a.n_kv);
    a.n_parts = parts ? (int) dst->ne[3] : (xqg_chunks(a.n_kv) + a.span - 1) / a.span;
    return {a, batch};
}

// ---- what is taken ----

inline bool xqg_rows_of_floats(const ggml_tensor * t) {
    return t && t->type == GGML_TYPE_F32 && t->nb[0] == sizeof(float) && t->nb[1] % sizeof(float) == 0 && t->nb[2] % sizeof(float) == 0;
}
inline bool xqg_is_table(const ggml_tensor * t) { return t && t->type == GGML_TYPE_I32 && ggml_is_contiguous(t); }

// Types and strides of a node's sources are those that the kernels read, and all its planes lie where `here` says so.
template <class Here>
bool xqg_takes(const ggml_tensor * node, const xq_node & n, Here here) {
    const auto & src = node->src;
    switch (n.kind) {
        case XQ_NODE_STORE:
        case XQ_NODE_SEAL:
        case XQ_NODE_STORE_AND_SEAL:
            return here(src[XQ_S_K_PAGES]) && here(src[XQ_S_V_PAGES]) && here(src[XQ_S_K_CODES]) && here(src[XQ_S_V_CODES]) &&
                   xqg_is_table(src[XQ_S_TABLE]) && xqg_rows_of_floats(src[XQ_S_K]) && xqg_rows_of_floats(src[XQ_S_V]) &&
                   src[XQ_S_ROWS]->type == GGML_TYPE_I64;
        case XQ_NODE_ATTEND:
            return here(src[XQ_A_K_PAGES]) && here(src[XQ_A_V_PAGES]) && here(src[XQ_A_K_CODES]) && here(src[XQ_A_V_CODES]) &&
                   xqg_is_table(src[XQ_A_TABLE]) && xqg_rows_of_floats(src[XQ_A_Q]) && src[XQ_A_MASK]->type == GGML_TYPE_F16 &&
                   src[XQ_A_MASK]->nb[0] == sizeof(uint16_t);
        case XQ_NODE_COMBINE:
            return ggml_is_contiguous(src[XQ_C_PARTS]);
        default:
            return false;
    }
}
