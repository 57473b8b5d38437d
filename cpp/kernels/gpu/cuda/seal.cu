// Sealing on CUDA. Codes and metadata have the same bytes on every machine, so this file is compiled with
//   -fmad=false -prec-div=true -prec-sqrt=true -ftz=false
// which nvcc obeys behind -use_fast_math too (tests/gpu/test_nvcc.py looks at the PTX).
#include "kernels/gpu/cuda/launch.h"

#include "kernels/gpu/seal.h"

XQG_KERNEL seal_kernel(const xqg_seal_args a, const xqg_planes p, const int32_t * table) {
    XQG_SHARED_MEMORY(shared);
    xqg_seal(xqg_here(), a.layer, p, table, a.walkers, shared);
}

XQG_KERNEL seal_strip_kernel(const xqg_strip_args a, const float * x, uint32_t * codes, uint8_t * meta) {
    XQG_SHARED_MEMORY(shared);
    if (a.side.meta == XQ_META_LOG8) {
        xqg_seal_unbiased(xqg_here(), a.side, xqg_plain{x}, xqg_plain{x + XQ_TILE*XQ_LANES}, a.n, a.lanes, a.row_mask, codes, meta, (int *) shared);
    } else {
        xqg_seal_strip(xqg_here(), a.side, xqg_plain{x}, a.lane_mask, a.row_mask, codes, a.leader != 0, meta, shared);
    }
}

cudaError_t xq_cuda_seal(const xqg_layer & layer, xqg_planes p, const int32_t * table, cudaStream_t stream) {
    const xqg_seal_args a = {layer, XQG_SEAL_WALKERS};
    const xq_grid grid = xqg_seal_grid(layer.k, layer.v, layer.n_head_kv, xqg_seal_bytes(layer.k, sizeof(xqg_ranked)));
    XQG_LAUNCH(seal_kernel, grid, stream, a, p, table);
    return cudaGetLastError();
}

cudaError_t xq_cuda_seal_strip(const xqg_strip_args & a, const float * x, uint32_t * codes, uint8_t * meta, cudaStream_t stream) {
    const xq_grid grid = {1, 1, 1, 128, xqg_seal_bytes(a.side, sizeof(xqg_ranked))};
    XQG_LAUNCH(seal_strip_kernel, grid, stream, a, x, codes, meta);
    return cudaGetLastError();
}
