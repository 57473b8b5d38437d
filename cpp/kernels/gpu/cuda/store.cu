// Storing new rows and unpacking strips on CUDA.
#include "kernels/gpu/cuda/launch.h"

#include "kernels/gpu/store.h"
#include "kernels/gpu/unpack.h"

XQG_KERNEL store_kernel(const xqg_store_args a, const xqg_planes p, const float * k, const float * v, const xqg_size * rows) {
    xqg_store(xqg_here(), a, p, k, v, rows);
}

XQG_KERNEL unpack_strip_kernel(const xq_side side, const uint32_t * codes, const uint8_t * meta, float * out) {
    XQG_SHARED_MEMORY(shared);
    xqg_unpack_strip(xqg_here(), side, codes, meta, xqg_to_strip{out}, (uint16_t *) shared);
}

cudaError_t xq_cuda_store(const xqg_store_args & a, xqg_planes p, const float * k, const float * v, const xqg_size * rows, cudaStream_t stream) {
    const xq_grid grid = {a.n_tokens, a.layer.n_head_kv, 1, 128, 0};
    XQG_LAUNCH(store_kernel, grid, stream, a, p, k, v, rows);
    return cudaGetLastError();
}

cudaError_t xq_cuda_unpack_strip(xq_side side, const uint32_t * codes, const uint8_t * meta, float * out, cudaStream_t stream) {
    const xq_grid grid = {1, 1, 1, 128, xqg_unpack_bytes(side)};
    XQG_LAUNCH(unpack_strip_kernel, grid, stream, side, codes, meta, out);
    return cudaGetLastError();
}
