// One strip of f32 numbers, as seal_strip_kernel (cuda/seal.cu).
#pragma once

#include "kernels/gpu/seal.h"

XQ_BODY void xqg_seal_one(xqg_place at, XQ_CONST const xqg_strip_args & a, XQ_GLOBAL const float * x, XQ_GLOBAL uint32_t * codes,
                          XQ_GLOBAL uint8_t * meta, XQ_SHARED float * shared) {
    xqg_plain first, second;
    first.x  = x;
    second.x = x + XQ_TILE*XQ_LANES;
    if (a.side.meta == XQ_META_LOG8) {
        xqg_seal_unbiased(at, a.side, first, second, a.n, a.lanes, a.row_mask, codes, meta, (XQ_SHARED int *) shared);
    } else {
        xqg_seal_strip(at, a.side, first, a.lane_mask, a.row_mask, codes, a.leader != 0, meta, shared);
    }
}
