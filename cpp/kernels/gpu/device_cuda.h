// The device layer for CUDA.
#pragma once

#include "format/xq_table.h"

#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <math.h>

#define XQ_GLOBAL
#define XQ_SHARED
#define XQ_CONST
#define XQ_LOCAL
#define XQ_BODY static __device__ __forceinline__
#define XQG_ALIGNED(n) __align__(n)
#define XQG_UNROLL _Pragma("unroll")
#define XQG_UNROLL_WORDS _Pragma("unroll (ROWS == 8 ? 2 : 4)")
#define XQG_NO_UNROLL _Pragma("unroll 1")

typedef int64_t xqg_size;

struct xqg_place { int id, lane, warp, warps, x, y, z; };

XQ_BODY xqg_place xqg_here() {
    const int t = (int) threadIdx.x;
    return {t, t & 31, t >> 5, (int) blockDim.x >> 5, (int) blockIdx.x, (int) blockIdx.y, (int) blockIdx.z};
}

XQ_BODY int xqg_lane() { return (int) threadIdx.x & 31; }

XQ_BODY void xqg_barrier()   { __syncthreads(); }
XQ_BODY void xqg_warp_sync() { __syncwarp(); }
XQ_BODY float    xqg_shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xFFFFFFFFu, x, mask); }
XQ_BODY uint32_t xqg_ballot(bool x) { return __ballot_sync(0xFFFFFFFFu, x); }
XQ_BODY int xqg_popcount(uint32_t x) { return __popc(x); }

XQ_BODY float    xqg_half(uint16_t bits)  { return __half2float(__ushort_as_half(bits)); }
XQ_BODY uint16_t xqg_to_half(float x)     { return __half_as_ushort(__float2half_rn(x)); }
XQ_BODY int      xqg_round(float x)       { return __float2int_rn(x); }
XQ_BODY float    xqg_exp(float x)         { return __expf(x); }
XQ_BODY float    xqg_exp2(float x)        { return exp2f(x); }
XQ_BODY float    xqg_tanh(float x)        { return tanhf(x); }
XQ_BODY float    xqg_sqrt(float x)        { return __fsqrt_rn(x); }
XQ_BODY float    xqg_fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
XQ_BODY float    xqg_abs(float x)         { return fabsf(x); }

// Unsigned codes with signed multipliers, which the intrinsic does not have. Before compute capability 6.1, for which
// ggml compiles with CUDA 12, there is no such instruction.
XQ_BODY int xqg_dp4a(uint32_t codes, int m, int sum) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 610
    for (int i = 0; i < 4; ++i) {
        sum += (int) (codes >> 8*i & 255u) * (int) (signed char) (m >> 8*i & 255);
    }
#else
    asm("dp4a.u32.s32 %0, %1, %2, %0;" : "+r"(sum) : "r"(codes), "r"(m));
#endif
    return sum;
}

#include "kernels/gpu/quads_dp4a.h"

// ---- launching ----

#include "kernels/gpu/launch.h"

#define XQG_KERNEL __global__ void __launch_bounds__(128)
#define XQG_KERNEL_FOR(blocks) __global__ void __launch_bounds__(128, blocks)
#define XQG_SHARED_MEMORY(name) extern __shared__ __align__(32) float4 xqg_memory[]; float * name = (float *) xqg_memory
#define XQG_LAUNCH(kernel, grid, stream, ...) \
    kernel<<<dim3((grid).x, (grid).y, (grid).z), (grid).threads, (grid).shared, stream>>>(__VA_ARGS__)
