// Attention on CUDA: kernels around the shared bodies, and their launches.
#include "kernels/gpu/cuda/launch.h"

#include "kernels/gpu/attend.h"
#include "kernels/gpu/combine.h"

// Blocks of a multiprocessor that registers are kept for: most that need no spill.
template <int ROWS>
XQG_KERNEL_FOR(ROWS == 8 ? 3 : 4) attend_kernel(const xqg_attend_args a, const xqg_planes p, const float * q, const uint16_t * mask, const int32_t * table, float * out) {
    XQG_SHARED_MEMORY(shared);
    xqg_attend<ROWS>(xqg_here(), a, p, q, mask, table, out, shared);
}

XQG_KERNEL combine_kernel(const xqg_combine_args a, const float * in, const float * sinks, float * out) {
    xqg_combine(xqg_here(), a, in, sinks, out);
}

cudaError_t xq_cuda_attend(const xqg_attend_args & a, xqg_planes p, const float * q, const uint16_t * mask, const int32_t * table,
                           float * out, cudaStream_t stream) {
    const int quad = (int) (sizeof(xqg_quad)/sizeof(float)), all = a.n_tokens/a.n_stream*(a.n_head/a.layer.n_head_kv);
    const int rows = xqg_rows(a.layer.k, a.layer.v, a.layer.dk, all, quad, XQG_SHARED_LIMIT);
    const size_t bytes = xqg_attend_bytes(a.layer.k, a.layer.v, a.layer.dk, rows, quad);
    const xq_grid grid = xqg_attend_grid(a.n_parts, a.layer.n_head_kv, a.n_stream, all, rows, bytes);
    switch (rows) {
        case 1:  XQG_LAUNCH(attend_kernel<1>, grid, stream, a, p, q, mask, table, out); break;
        case 2:  XQG_LAUNCH(attend_kernel<2>, grid, stream, a, p, q, mask, table, out); break;
        case 4:  XQG_LAUNCH(attend_kernel<4>, grid, stream, a, p, q, mask, table, out); break;
        default: XQG_LAUNCH(attend_kernel<8>, grid, stream, a, p, q, mask, table, out); break;
    }
    return cudaGetLastError();
}

cudaError_t xq_cuda_combine(const xqg_combine_args & a, const float * in, const float * sinks, float * out, cudaStream_t stream) {
    const xq_grid grid = {a.n_tokens*a.n_head, 1, 1, 128, 0};
    XQG_LAUNCH(combine_kernel, grid, stream, a, in, sinks, out);
    return cudaGetLastError();
}
