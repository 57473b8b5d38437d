// Grids of scales, zero points and midpoints, by one warp each. The bytes are those of the reference.
#pragma once

#include "kernels/gpu/device.h"

#include "format/xq_ranked.h"

// f16 with the range clamped, as numbers of the metadata are stored.
XQ_BODY int xqg_stored(float x) { return xqg_to_half(xq_f16_range(x)); }

struct xqg_grid { float lo, step, inv; };

// The 8-bit grid over what the lanes saw, as it is stored; lane 0 writes its head.
XQ_BODY xqg_grid xqg_write_grid_head(float lowest, float highest, XQ_GLOBAL uint8_t * head, int lane) {
    xqg_grid g;
    g.lo = xqg_half((uint16_t) xqg_stored(xqg_warp_min(lowest))) + 0.0f; // -0 becomes 0
    const float hi = xqg_warp_max(highest) + 0.0f;
    g.step = xqg_half((uint16_t) xqg_stored((hi - g.lo) / 255.0f));
    g.inv  = g.step > 0.0f ? 1.0f / g.step : 0.0f;
    if (lane == 0) {
        xqg_put_u16(head, xqg_stored(g.lo));
        xqg_put_u16(head + 2, xqg_stored(g.step));
    }
    return g;
}

XQ_BODY void xqg_write_grid(XQ_SHARED const float * v, int n, XQ_GLOBAL uint8_t * head, XQ_GLOBAL uint8_t * out, int lane) {
    float lo = INFINITY, hi = -INFINITY;
    for (int i = lane; i < n; i += XQ_LANES) {
        lo = xqg_fmin(lo, v[i]);
        hi = xqg_fmax(hi, v[i]);
    }
    const xqg_grid g = xqg_write_grid_head(lo, hi, head, lane);
    for (int i = lane; i < n; i += XQ_LANES) {
        out[i] = (uint8_t) xq_meta_u8(v[i], g.lo, g.inv);
    }
}

// A logarithmic grid over log[0..n), -1 where there is no scale; lane 0 of the warp that `writes` writes its head.
// Exponents fit a float exactly.
struct xqg_log_grid { int lowest, step; };
XQ_BODY xqg_log_grid xqg_write_log_head(XQ_SHARED const int * log, int n, int top, XQ_GLOBAL uint8_t * head, bool writes, int lane) {
    float lowest = 1 << 20, highest = -1.0f;
    for (int i = lane; i < n; i += XQ_LANES) {
        lowest  = log[i] >= 0 ? xqg_fmin(lowest, (float) log[i]) : lowest;
        highest = xqg_fmax(highest, (float) log[i]);
    }
    lowest  = xqg_warp_min(lowest);
    highest = xqg_warp_max(highest);
    xqg_log_grid g;
    g.lowest = highest < 0.0f ? 0 : (int) lowest;
    g.step   = xq_log_step(g.lowest, highest < 0.0f ? 0 : (int) highest, top);
    if (writes && lane == 0) {
        xqg_put_u16(head, g.lowest);
        xqg_put_u16(head + 2, g.step);
    }
    return g;
}
