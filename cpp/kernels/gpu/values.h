// Outputs of one chunk for some strips of values, by one warp: lane = channel.
#pragma once

#include "kernels/gpu/args.h"
#include "kernels/gpu/layout.h"
#include "kernels/gpu/mac.h"

// acc[h*ROWS + r] += weights of r . values of strip h of a sealed tile, n (1 or 2) strips that share scales. Lane t
// brings token t's weights.
template <int ROWS>
XQ_BODY void xqg_add_codes(xq_side side, XQ_GLOBAL const uint32_t * codes, XQ_GLOBAL const uint8_t * meta, int n,
                           XQ_LOCAL const float * weight, XQ_SHARED xqg_quad * quads, XQ_LOCAL float * acc, int lane) {
    const xqg_group g = xqg_read_group(side, meta, lane);
    float step[ROWS], offset[ROWS];
    XQG_UNROLL
    for (int r = 0; r < ROWS; ++r) {
        const float m = weight[r]*g.scale, most = xqg_warp_max(xqg_abs(m)); // a follower's scale may be negative
        offset[r] = xqg_warp_sum(weight[r]*g.zero);
        step[r]   = xqg_step(most);
        for (int p = 0; p < xq_n_planes(side.bits); ++p) {
            const xqg_segment seg = xqg_plane_segment(side, p);
            const xqg_slot slot = xqg_slot_of(lane, seg.bits);
            xqg_put(quads + (seg.quad + slot.quad)*ROWS + r, slot.byte, m*xqg_inv(most));
        }
    }
    xqg_warp_sync();
    for (int h = 0; h < n; ++h) {
        float sum[ROWS];
        XQG_UNROLL
        for (int r = 0; r < ROWS; ++r) {
            sum[r] = offset[r];
        }
        for (int p = 0; p < xq_n_planes(side.bits); ++p) {
            const xqg_segment seg = xqg_plane_segment(side, p);
            xqg_mac<ROWS>(codes + (xqg_size) h*xq_side_words(side), seg, quads, p == 0 ? 1.0f : 4.0f, step, sum, lane);
        }
        XQG_UNROLL
        for (int r = 0; r < ROWS; ++r) {
            acc[r]        += h == 0 ? sum[r] : 0.0f; // registers have no index
            acc[ROWS + r] += h == 0 ? 0.0f : sum[r];
        }
    }
    xqg_warp_sync(); // the next tile's multipliers overwrite these
}

// The same from a page, for the rows in `rows`: weights [row][XQG_CHUNK] of its 32 cells. What a cell holds that a row
// does not see must not count, not even a NaN.
template <int ROWS>
XQ_BODY void xqg_add_page(XQ_GLOBAL const uint16_t * page, xqg_size ldv, int dv, int first, XQ_SHARED const float * weights, uint32_t rows,
                          XQ_LOCAL float * acc, int lane) {
    const bool one = first + lane < dv, two = first + XQ_LANES + lane < dv;
    for (int t = 0; t < XQ_TILE; ++t) {
        XQ_GLOBAL const uint16_t * x = page + t*ldv + first + lane;
        const float a = one ? xqg_half(x[0]) : 0.0f, b = two ? xqg_half(x[XQ_LANES]) : 0.0f;
        XQG_UNROLL
        for (int r = 0; r < ROWS; ++r) {
            const float w = rows >> r & 1 ? weights[r*XQG_CHUNK + t] : 0.0f;
            acc[r]        += w > 0.0f ? w*a : 0.0f;
            acc[ROWS + r] += w > 0.0f ? w*b : 0.0f;
        }
    }
}
