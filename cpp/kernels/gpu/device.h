// What the kernel bodies need of a device, and nothing else: one of four headers supplies it.
//
//   XQ_GLOBAL XQ_SHARED XQ_CONST XQ_LOCAL   address spaces of pointers (only Metal tells them apart)
//   XQ_BODY                                 qualifiers of a body and of what it calls
//   xqg_place                               id (of the thread), lane, warp, warps and the block's x, y, z
//   xqg_barrier, xqg_warp_sync              all threads of the block, of the warp; shared memory is visible after it
//   xqg_shuffle_xor, xqg_ballot             all 32 lanes must come
//   xqg_half, xqg_to_half                   f16 bits to f32 and back, to the nearest
//   xqg_quad, xqg_sum, xqg_put, xqg_mac4    four multipliers, a sum of their products with codes (quads_*.h)
#pragma once

#if defined(__CUDACC__)
#include "kernels/gpu/device_cuda.h"
#elif defined(__METAL_VERSION__)
#include "kernels/gpu/device_metal.h"
#elif defined(XQ_GLSL)
#include "kernels/gpu/vulkan/device_glsl.h"
#else
#include "kernels/gpu/device_emulated.h"
#endif

#define XQG_THREADS 128
#define XQG_HIDDEN (-3.0e38f) // a logit that does not count; finite, because fast math may take infinities away

XQ_BODY int xqg_min(int a, int b) { return a < b ? a : b; }
XQ_BODY int xqg_max(int a, int b) { return a > b ? a : b; }
XQ_BODY float xqg_fmin(float a, float b) { return a < b ? a : b; }
XQ_BODY float xqg_fmax(float a, float b) { return b > a ? b : a; } // a if b is a NaN

// Over a warp, the same bits in every lane. The sum adds in the order of xq_unbiased.h: upper half onto lower.
XQ_BODY float xqg_warp_sum(float x) {
    for (int d = XQ_LANES/2; d > 0; d /= 2) {
        x = x + xqg_shuffle_xor(x, d);
    }
    return x;
}
XQ_BODY float xqg_warp_max(float x) {
    for (int d = XQ_LANES/2; d > 0; d /= 2) {
        x = xqg_fmax(x, xqg_shuffle_xor(x, d));
    }
    return x;
}
XQ_BODY float xqg_warp_min(float x) { return -xqg_warp_max(-x); }

// Bytes may lie anywhere: metadata is not aligned.
XQ_BODY int xqg_u16(XQ_GLOBAL const uint8_t * p) { return p[0] | p[1] << 8; }
XQ_BODY void xqg_put_u16(XQ_GLOBAL uint8_t * p, int v) {
    p[0] = (uint8_t) (v & 255);
    p[1] = (uint8_t) (v >> 8);
}
XQ_BODY float xqg_half_at(XQ_GLOBAL const uint8_t * p) { return xqg_half((uint16_t) xqg_u16(p)); }

// A weight of the softmax, or the factor of a partial result whose largest logit was x. NaN of a NaN.
XQ_BODY float xqg_exp_from(float x, float top) { return x <= XQG_HIDDEN ? 0.0f : xqg_exp(x - top); }
