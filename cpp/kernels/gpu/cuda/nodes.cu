// From ggml nodes to launches: what a node's tensors mean to the kernels.
#include "kernels/gpu/cuda/launch.h"

#include "kernels/gpu/cuda/backend.h"
#include "kernels/gpu/node_args.h"
#include "kernels/gpu/seal_ranked.h"

// `static`, not an unnamed namespace: nvcc renames that, and the host compiler then misses declarations.

static xqg_planes planes_of(const xq_node_layer & n, const ggml_tensor * k_pages, const ggml_tensor * v_pages, const ggml_tensor * k_codes,
                            const ggml_tensor * v_codes, const ggml_tensor * meta) {
    uint8_t * bytes = (uint8_t *) meta->data;
    return {(uint32_t *) k_codes->data, (uint32_t *) v_codes->data, bytes, bytes + n.v_meta_at, (uint16_t *) k_pages->data,
            (uint16_t *) v_pages->data};
}

// ---- attention ----

// Partial results of a whole micro-batch could be a large part of what packing saves. So they are computed and folded
// for as many tokens at a time as have room in XQG_MOST_PARTS; a token's result does not depend on that.
static int slice_of(const xqg_attend_args & a) { return xqg_slice(a.n_tokens, a.n_parts, a.n_head, a.layer.dv); }

static cudaError_t attention(const ggml_tensor * dst, const xq_node & n, float * scratch, cudaStream_t stream) {
    const auto & src = dst->src;
    const xqg_attention t = xqg_attention_of(dst, n, XQG_BATCH_MEMORY_CUDA);
    const int slice = slice_of(t.a);
    const auto attend = t.batch ? xq_cuda_attend_batch : xq_cuda_attend;
    const xqg_planes p = planes_of(*n.layer, src[XQ_A_K_PAGES], src[XQ_A_V_PAGES], src[XQ_A_K_CODES], src[XQ_A_V_CODES], src[XQ_A_META]);
    const float * q = (const float *) src[XQ_A_Q]->data;
    const uint16_t * mask = (const uint16_t *) src[XQ_A_MASK]->data;
    const int32_t * table = (const int32_t *) src[XQ_A_TABLE]->data;
    const float * sinks = src[XQ_A_SINKS] ? (const float *) src[XQ_A_SINKS]->data : nullptr;
    float * out = (float *) dst->data;
    if (dst->ne[3] > 1) {
        return attend(t.a, p, q, mask, table, out, stream);
    }
    // Streams one after the other only where their tokens do not fit together.
    const bool apart = slice < t.a.n_tokens;
    const int n_stream = apart ? t.a.n_stream : 1, of_stream = t.a.n_tokens/n_stream;
    for (int s = 0; s < n_stream; ++s) {
        for (int first = 0; first < of_stream; first += slice) {
            xqg_attend_args a = t.a;
            a.first_stream = s;
            a.first_token  = s*of_stream + first;
            a.n_tokens = of_stream - first < slice ? of_stream - first : slice;
            a.n_stream = apart ? 1 : t.a.n_stream;
            const float * from = q + a.first_token*a.q_token;
            cudaError_t error = attend(a, p, from, mask + s*a.mask_stream + first*a.mask_token, table, scratch, stream);
            if (error == 0) {
                const xqg_combine_args c = {a.layer.dv, a.layer.v.rot, a.n_head, a.n_tokens, a.n_parts, sinks != nullptr};
                error = xq_cuda_combine(c, scratch, sinks, out + (xqg_size) a.first_token*a.n_head*a.layer.dv, stream);
            }
            if (error != 0) {
                return error;
            }
        }
    }
    return (cudaError_t) 0;
}

static cudaError_t combine(const ggml_tensor * dst, const xq_node & n, cudaStream_t stream) {
    const ggml_tensor * parts = dst->src[XQ_C_PARTS], * sinks = dst->src[XQ_C_SINKS];
    const xqg_combine_args a = {(int) dst->ne[0], n.layer->v.rot, (int) dst->ne[1], (int) dst->ne[2], (int) parts->ne[3], sinks != nullptr};
    return xq_cuda_combine(a, (const float *) parts->data, sinks ? (const float *) sinks->data : nullptr, (float *) dst->data, stream);
}

// ---- storing and sealing ----

static cudaError_t store_and_seal(const ggml_tensor * dst, const xq_node & n, cudaStream_t stream) {
    const auto & src = dst->src;
    const xqg_planes p = planes_of(*n.layer, src[XQ_S_K_PAGES], src[XQ_S_V_PAGES], src[XQ_S_K_CODES], src[XQ_S_V_CODES], src[XQ_S_META]);
    cudaError_t error = (cudaError_t) 0;
    if (xqg_stores(n)) {
        error = xq_cuda_store(xqg_store_args_of(dst, n), p, (const float *) src[XQ_S_K]->data, (const float *) src[XQ_S_V]->data,
                              (const xqg_size *) src[XQ_S_ROWS]->data, stream);
    }
    if (error == 0 && xqg_seals(n)) {
        error = xq_cuda_seal(xqg_layer_of(*n.layer), p, (const int32_t *) src[XQ_S_TABLE]->data, stream);
    }
    return error;
}

// ---- what is taken ----

static const char * refusal(const xq_node_layer * l) {
    if (!xq_head_dim_fits(l->dk) || !xq_head_dim_fits(l->dv)) {
        return "head dims that are " XQ_HEAD_DIM_RULE;
    }
    const int quad = (int) (sizeof(xqg_quad)/sizeof(float));
    const bool fits = xqg_attend_bytes(l->k, l->v, l->dk, 1, quad) <= XQG_SHARED_LIMIT && xqg_seal_bytes(l->k, sizeof(xqg_ranked)) <= XQG_SHARED_LIMIT;
    return fits ? nullptr : "a layer whose blocks fit into 48 KiB of shared memory";
}

bool xq_cuda_supports(const ggml_tensor * node, ggml_backend_dev_t device) {
    xq_node n;
    return xq_node_read(node, n) && !refusal(n.layer) && xqg_takes(node, n, [=](const ggml_tensor * plane) {
        return plane && plane->buffer && ggml_backend_buft_get_device(ggml_backend_buffer_get_type(plane->buffer)) == device;
    });
}

size_t xq_cuda_scratch(const ggml_tensor * node) {
    xq_node n;
    if (!xq_node_read(node, n) || n.kind != XQ_NODE_ATTEND || node->ne[3] > 1) {
        return 1;
    }
    const xqg_attend_args a = xqg_attention_of(node, n, XQG_BATCH_MEMORY_CUDA).a;
    return (size_t) slice_of(a)*a.n_parts*a.n_head*(a.layer.dv + 2);
}

cudaError_t xq_cuda_compute(const ggml_tensor * node, float * scratch, cudaStream_t stream) {
    xq_node n;
    if (!xq_node_read(node, n)) {
        return (cudaError_t) 1; // an invalid value: the scheduler was told that we do not take it
    }
    return n.kind == XQ_NODE_ATTEND ? attention(node, n, scratch, stream)
         : n.kind == XQ_NODE_COMBINE ? combine(node, n, stream) : store_and_seal(node, n, stream);
}

void * xq_cuda_address(const char * name) {
    const xq_layer_check check = refusal;
    return std::strcmp(name, XQ_LAYER_CHECK) == 0 ? (void *) check : nullptr;
}
