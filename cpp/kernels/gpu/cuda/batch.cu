// Attention for many query rows on CUDA.
#include "kernels/gpu/cuda/launch.h"

#include "kernels/gpu/attend_batch.h"

template <int VT>
XQG_KERNEL attend_batch_kernel(const xqg_attend_args a, const xqg_planes p, const float * q, const uint16_t * mask, const int32_t * table, float * out) {
    XQG_SHARED_MEMORY(shared);
    xqg_attend_batch<VT>(xqg_here(), a, p, q, mask, table, out, shared);
}

cudaError_t xq_cuda_attend_batch(const xqg_attend_args & a, xqg_planes p, const float * q, const uint16_t * mask, const int32_t * table,
                                 float * out, cudaStream_t stream) {
    const int dk = a.layer.dk, dv = a.layer.dv, all = a.n_tokens/a.n_stream*(a.n_head/a.layer.n_head_kv);
    const xq_grid grid = xqg_batch_grid(a.n_parts, a.layer.n_head_kv, a.n_stream, all, dk, dv, XQG_BATCH_MEMORY);
    if (dv <= 64) {
        XQG_LAUNCH(attend_batch_kernel<4>, grid, stream, a, p, q, mask, table, out);
    } else if (dv <= 128) {
        XQG_LAUNCH(attend_batch_kernel<8>, grid, stream, a, p, q, mask, table, out);
    } else {
        XQG_LAUNCH(attend_batch_kernel<16>, grid, stream, a, p, q, mask, table, out);
    }
    return cudaGetLastError();
}
