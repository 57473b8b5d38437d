// The device layer for Metal. tests/gpu/shim/ supplies metal_stdlib where this is compiled as C++.
#pragma once

#include <metal_stdlib>
using namespace metal;

#include "format/xq_table.h"

#define XQ_GLOBAL device
#define XQ_SHARED threadgroup
#define XQ_CONST constant
#define XQ_LOCAL thread
#define XQ_BODY static inline
#define XQG_ALIGNED(n) alignas(n)
#define XQG_UNROLL _Pragma("clang loop unroll(full)")
#define XQG_UNROLL_WORDS _Pragma("clang loop unroll_count(ROWS == 8 ? 2 : 4)")
#define XQG_NO_UNROLL _Pragma("clang loop unroll(disable)")

#if !defined(XQG_THREADGROUP) // the shim's, where `threadgroup` is a macro
#define XQG_THREADGROUP(n) [[threadgroup(n)]]
#endif

typedef int64_t xqg_size;

struct xqg_place { int id, lane, warp, warps, x, y, z; };

XQ_BODY xqg_place xqg_here(uint3 group, uint id, uint lane, uint warp) {
    xqg_place at = {(int) id, (int) lane, (int) warp, 4, (int) group.x, (int) group.y, (int) group.z};
    return at;
}

XQ_BODY void xqg_barrier()   { threadgroup_barrier(mem_flags::mem_threadgroup); }
XQ_BODY void xqg_warp_sync() { simdgroup_barrier(mem_flags::mem_threadgroup); }
XQ_BODY float    xqg_shuffle_xor(float x, int mask) { return simd_shuffle_xor(x, (ushort) mask); }
XQ_BODY uint32_t xqg_ballot(bool x) { return (uint32_t) (simd_vote::vote_t) simd_ballot(x); }
XQ_BODY int xqg_popcount(uint32_t x) { return (int) popcount(x); }

XQ_BODY float    xqg_half(uint16_t bits)  { return (float) as_type<half>(bits); }
XQ_BODY uint16_t xqg_to_half(float x)     { return as_type<ushort>((half) x); }
XQ_BODY float    xqg_exp(float x)         { return exp(x); }
XQ_BODY float    xqg_exp2(float x)        { return exp2(x); }
XQ_BODY float    xqg_tanh(float x)        { return precise::tanh(x); }
XQ_BODY float    xqg_sqrt(float x)        { return precise::sqrt(x); }
XQ_BODY float    xqg_fma(float a, float b, float c) { return fma(a, b, c); }
XQ_BODY float    xqg_abs(float x)         { return fabs(x); }

#include "kernels/gpu/quads_float.h"
