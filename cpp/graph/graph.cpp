#include "graph/graph.h"

#include "cache/cache.h"
#include "graph/nodes.h"
#include "graph/queries.h"
#include "kernels/cpu/attend.h"
#include "kernels/cpu/kernels.h"

#include "llama-hparams.h"
#include "llama-impl.h"

#include <stdexcept>

namespace {

// Up to here a node less, which is a barrier less, is worth more than storing and sealing with all threads.
constexpr int64_t FEW_TOKENS = 16;

// f32 rows whose heads are contiguous; heads and tokens may lie anywhere.
ggml_tensor * rows_of(ggml_context * ctx, ggml_tensor * cur) {
    return cur->type == GGML_TYPE_F32 && cur->nb[0] == sizeof(float) ? cur : ggml_cast(ctx, cur, GGML_TYPE_F32);
}

[[noreturn]] void refuse(const std::string & text) {
    xq_set_error(text);
    throw std::runtime_error(text);
}

// Where the cache is, if a backend there takes the node.
bool placed_beside(ggml_backend_sched_t sched, const ggml_tensor * plane, ggml_tensor * node) {
    const ggml_backend_buffer_type_t buft = ggml_backend_buffer_get_type(plane->buffer);
    for (int i = 0; i < ggml_backend_sched_get_n_backends(sched); ++i) {
        ggml_backend_t backend = ggml_backend_sched_get_backend(sched, i);
        if (ggml_backend_supports_buft(backend, buft) && ggml_backend_supports_op(backend, node)) {
            ggml_backend_sched_set_tensor_backend(sched, node, backend);
            return true;
        }
    }
    return false;
}

// A node whose result lies in the cache runs where the cache is. Attention's does not: the scheduler could give it to
// the CPU backend, which takes any custom node, and copy all planes there in every step.
void run_beside(ggml_backend_sched_t sched, const ggml_tensor * plane, ggml_tensor * node) {
    if (placed_beside(sched, plane, node)) {
        return;
    }
    const ggml_backend_buffer_type_t buft = ggml_backend_buffer_get_type(plane->buffer);
    refuse("xquant: packed attention must run where the KV cache is; got a cache in " + std::string(ggml_backend_buft_name(buft)) +
           " without a backend that takes " + ggml_get_name(node) + "; keep the cache on the CPU with offload_kqv=False, or use kv=\"f16\"");
}

// A layer's factors are measured while the first graph is built, so the weights are there and no adapter is; they
// stay as long as the cache does.
void measure(xq_metric & metric, ggml_backend_sched_t sched, ggml_tensor * q, int n_head_kv, int il) {
    try {
        const xq_query_sizes sizes = xq_measure_queries(sched, q);
        metric.set(xq_metric_from_squares(sizes.squares, sizes.partner, n_head_kv));
    } catch (const std::runtime_error & e) {
        LLAMA_LOG_WARN("xquant: keys of layer %d are kept as they are, not in the metric of queries: %s\n", il, e.what());
        metric.leave(e.what());
    }
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

ggml_tensor * xq_build_attn(ggml_context * ctx, ggml_cgraph * gf, ggml_backend_sched_t sched, const xq_cache & cache,
                            const llama_hparams & hparams, int il, ggml_tensor * q, ggml_tensor * k_cur, ggml_tensor * v_cur,
                            ggml_tensor * k_idxs, ggml_tensor * table, ggml_tensor * mask, ggml_tensor * sinks,
                            ggml_tensor * kq_b, float kq_scale, ggml_tensor * v_mla) {
    if (!xq_cpu_refusal().empty()) { // the first graph is built while a context is created
        refuse(xq_cpu_refusal());
    }
    const xq_layer * layer = cache.find(il);
    if (kq_b || !layer || mask->type != GGML_TYPE_F16) {
        xq_refuse_view(il);
    }
    xq_node_planes planes = layer->planes;
    q = rows_of(ctx, q);
    ggml_tensor * k = k_cur ? rows_of(ctx, k_cur) : nullptr;
    if (xq_metric * metric = layer->metric.get()) {
        if (!metric->known()) {
            measure(*metric, sched, q, layer->node.n_head_kv, il);
        }
        const auto beside = [&](ggml_tensor * node, const char * name) {
            ggml_format_name(node, "%s-%d", name, il);
            placed_beside(sched, planes.k_pages, node); // or wherever the scheduler puts a plain multiplication
            return node;
        };
        const int64_t n_head = q->ne[1];
        q = ggml_reshape_3d(ctx, beside(metric->queries(ctx, q), "xq_q"), layer->node.dk, n_head, q->ne[2]);
        k = k ? beside(metric->keys(ctx, k), "xq_k") : nullptr;
    }
    if (k_cur && v_cur) {
        ggml_tensor * v = rows_of(ctx, v_cur);
        const auto node = [&](xq_node_kind kind, const char * name) {
            planes.meta = xq_node_seal(ctx, kind, layer->node, planes, table, k, v, k_idxs);
            ggml_format_name(planes.meta, "%s-%d", name, il);
            ggml_build_forward_expand(gf, planes.meta);
        };
        if (k_cur->ne[2] <= FEW_TOKENS) {
            node(XQ_NODE_STORE_AND_SEAL, "xq_store");
        } else {
            node(XQ_NODE_STORE, "xq_store");
            node(XQ_NODE_SEAL, "xq_seal");
        }
    }
    const int64_t n_head = q->ne[1], n_tokens = q->ne[2];
    // A device splits the context on its own and combines in the same node.
    const int n_parts = !ggml_backend_buffer_is_host(planes.k_pages->buffer) ? 1
        : xq_attend_parts((int) n_tokens, (int) mask->ne[3], layer->node.n_head_kv, (int) n_head, (int) mask->ne[0], layer->node.dv);
    const xq_attend_params params = {kq_scale, hparams.attn_soft_cap ? hparams.f_attn_logit_softcapping : 0.0f, hparams.f_max_alibi_bias};
    ggml_tensor * cur = xq_node_attend(ctx, layer->node, planes, table, q, mask, sinks, params, n_parts);
    ggml_format_name(cur, "xq_attend-%d", il);
    run_beside(sched, planes.k_pages, cur);
    if (n_parts > 1) {
        cur = xq_node_combine(ctx, layer->node, cur, sinks);
        ggml_format_name(cur, "xq_combine-%d", il);
        run_beside(sched, planes.k_pages, cur);
    }
    if (v_mla) { // heads one by one, tokens as columns
        cur = ggml_permute(ctx, ggml_reshape_3d(ctx, cur, layer->node.dv, n_head, n_tokens), 0, 2, 1, 3);
        cur = ggml_cont(ctx, ggml_permute(ctx, ggml_mul_mat(ctx, v_mla, cur), 0, 2, 1, 3));
    }
    cur = ggml_reshape_2d(ctx, cur, ggml_nelements(cur)/n_tokens, n_tokens);
    ggml_build_forward_expand(gf, cur);
    return cur;
}
