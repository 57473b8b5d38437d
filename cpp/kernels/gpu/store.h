// New rows of keys and values into their pages, as f16; values rotated, where the layer rotates them. Grid: x = token,
// y = KV head.
#pragma once

#include "kernels/gpu/args.h"
#include "kernels/gpu/rotate.h"

XQ_BODY void xqg_store(xqg_place at, XQ_CONST const xqg_store_args & a, xqg_planes p, XQ_GLOBAL const float * k, XQ_GLOBAL const float * v,
                       XQ_GLOBAL const xqg_size * rows) {
    const xqg_size row = rows[at.x];
    const int dk = a.layer.dk, dv = a.layer.dv, rot = a.layer.v.rot;
    XQ_GLOBAL const float * x = k + at.x*a.k_token + at.y*a.k_head;
    XQ_GLOBAL uint16_t * out = p.k_pages + row*a.layer.k_row + (xqg_size) at.y*dk;
    for (int d = at.id; d < dk; d += XQG_THREADS) {
        out[d] = xqg_to_half(x[d]);
    }
    x   = v + at.x*a.v_token + at.y*a.v_head;
    out = p.v_pages + row*a.layer.v_row + (xqg_size) at.y*dv;
    for (int d0 = at.warp*2*XQ_LANES; d0 < dv; d0 += at.warps*2*XQ_LANES) {
        const int d = d0 + at.lane;
        const bool lower = d < dv, upper = d + XQ_LANES < dv;
        xqg_two two = {lower ? x[d] : 0.0f, upper ? x[d + XQ_LANES] : 0.0f};
        if (rot) {
            two = xqg_rotate(two, rot, at.lane);
        }
        if (lower) {
            out[d] = xqg_to_half(two.lower);
        }
        if (upper) {
            out[d + XQ_LANES] = xqg_to_half(two.upper);
        }
    }
}
