// One strip back to f32 numbers, as unpack_strip_kernel (cuda/attend.cu).
#pragma once

#include "kernels/gpu/args.h"
#include "kernels/gpu/unpack.h"

XQ_BODY void xqg_unpack_one(xqg_place at, XQ_CONST const xqg_strip_args & a, XQ_GLOBAL float * x, XQ_GLOBAL const uint32_t * codes,
                            XQ_GLOBAL const uint8_t * meta, XQ_SHARED uint16_t * shared) {
    xqg_to_strip sink;
    sink.out = x;
    xqg_unpack_strip(at, a.side, codes, meta, sink, shared);
}
