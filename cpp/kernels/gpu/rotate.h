// The rotation of xq_rotate.h over 64 channels of a warp: lane l has channels l and l + 32.
#pragma once

#include "kernels/gpu/device.h"

#include "format/xq_rotate.h"

struct xqg_two { float lower, upper; };

// Blocks of 8 to 64 channels. Additions in the order of the reference.
XQ_BODY xqg_two xqg_rotate(xqg_two x, int block, int lane) {
    for (int h = 1; h < block && h < XQ_LANES; h *= 2) {
        const float a = xqg_shuffle_xor(x.lower, h), b = xqg_shuffle_xor(x.upper, h);
        x.lower = lane & h ? a - x.lower : x.lower + a;
        x.upper = lane & h ? b - x.upper : x.upper + b;
    }
    if (block == 2*XQ_LANES) {
        const float u = x.lower, v = x.upper;
        x.lower = u + v;
        x.upper = u - v;
    }
    const float norm = 1.0f / xqg_sqrt((float) block);
    x.lower *= norm;
    x.upper *= norm;
    return x;
}
