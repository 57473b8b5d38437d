// The device layer for the emulator (emulated/emulator.h): the .cu files compile with it as plain C++.
#pragma once

#include "format/xq_table.h"
#include "kernels/gpu/emulated/emulator.h"
#include "kernels/gpu/emulated/half.h"

#include <math.h>
#include <string.h>

#define XQ_GLOBAL
#define XQ_SHARED
#define XQ_CONST
#define XQ_LOCAL
#define XQ_BODY static inline
#define XQG_ALIGNED(n) alignas(n)
#define XQG_UNROLL
#define XQG_UNROLL_WORDS
#define XQG_NO_UNROLL

typedef int64_t xqg_size;

struct xqg_place { int id, lane, warp, warps, x, y, z; };

XQ_BODY xqg_place xqg_here() {
    using namespace xq_emulator;
    const int t = thread_index();
    return {t, t & 31, t >> 5, 128 >> 5, block_index(0), block_index(1), block_index(2)};
}

XQ_BODY int xqg_lane() { return xq_emulator::thread_index() & 31; }

// The caller's line tells meetings apart.
XQ_BODY void xqg_barrier(int line = __builtin_LINE())   { xq_emulator::barrier(line); }
XQ_BODY void xqg_warp_sync(int line = __builtin_LINE()) { xq_emulator::exchange(0, 0, line); }
XQ_BODY float xqg_shuffle_xor(float x, int mask, int line = __builtin_LINE()) {
    return xq_bits_float(xq_emulator::exchange(xq_float_bits(x), (xq_emulator::thread_index() & 31) ^ mask, line));
}
XQ_BODY uint32_t xqg_ballot(bool x, int line = __builtin_LINE()) { return xq_emulator::ballot(x, line); }
XQ_BODY int xqg_popcount(uint32_t x) { return __builtin_popcount(x); }

XQ_BODY float    xqg_half(uint16_t bits)  { return xq_emulator::from_half(bits); }
XQ_BODY uint16_t xqg_to_half(float x)     { return xq_emulator::to_half(x); }
XQ_BODY int      xqg_round(float x)       { return (int) rintf(x); }
XQ_BODY float    xqg_exp(float x)         { return expf(x); }
XQ_BODY float    xqg_exp2(float x)        { return exp2f(x); }
XQ_BODY float    xqg_tanh(float x)        { return tanhf(x); }
XQ_BODY float    xqg_sqrt(float x)        { return sqrtf(x); }
XQ_BODY float    xqg_fma(float a, float b, float c) { return fmaf(a, b, c); }
XQ_BODY float    xqg_abs(float x)         { return fabsf(x); }

XQ_BODY int xqg_dp4a(uint32_t codes, int m, int sum) {
    for (int i = 0; i < 4; ++i) {
        sum += (int) (codes >> 8*i & 255u) * (int) (int8_t) ((uint32_t) m >> 8*i & 255u);
    }
    return sum;
}

#include "kernels/gpu/quads_dp4a.h"

// ---- launching ----

#include "kernels/gpu/launch.h"

typedef void * cudaStream_t;
typedef int cudaError_t;
inline cudaError_t cudaGetLastError() { return *xq_emulator::last_error() ? 1 : 0; }

#define XQG_KERNEL static void
#define XQG_KERNEL_FOR(blocks) static void
#define XQG_SHARED_MEMORY(name) float * name = (float *) xq_emulator::shared_memory()
#define XQG_LAUNCH(kernel, grid, stream, ...) ((void) (stream), xq_emulator::launch(grid, [&] { kernel(__VA_ARGS__); }))
