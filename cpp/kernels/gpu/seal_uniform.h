// A strip of rows of one width, min/max, for the owner of the codes or for a follower of them. A block calls.
#pragma once

#include "kernels/gpu/seal_meta.h"
#include "kernels/gpu/source.h"
#include "kernels/gpu/words.h"

struct xqg_fit { float scale, zero; };

// Least squares of x on codes over the lanes that are `ok`. Deviations from the means keep f32 exact enough.
XQ_BODY xqg_fit xqg_fit_ls(float x, float code, bool ok) {
    const int n = xqg_popcount(xqg_ballot(ok));
    const float mean_x = xqg_warp_sum(ok ? x : 0.0f) / (float) n, mean_c = xqg_warp_sum(ok ? code : 0.0f) / (float) n;
    const float dx = ok ? x - mean_x : 0.0f, dc = ok ? code - mean_c : 0.0f;
    const float var = xqg_warp_sum(dc*dc), cov = xqg_warp_sum(dc*dx);
    xqg_fit f;
    f.scale = var > 1e-6f ? cov/var : 0.0f;
    f.zero  = mean_x - f.scale*mean_c;
    return f;
}

XQ_BODY uint32_t xqg_uniform_code(xq_side side, XQ_GLOBAL const uint32_t * codes, int row, int lane) {
    uint32_t code = xqg_code(codes, xqg_plane_segment(side, 0), row, lane);
    if (side.bits == 3) {
        code |= xqg_code(codes, xqg_plane_segment(side, 1), row, lane) << 2;
    }
    return code;
}

// 32 rows from i0 on. A warp has them all, so that every word is written once, by one lane.
template <class Source>
XQ_BODY void xqg_seal_rows(xq_side side, Source x, int i0, uint32_t lane_mask, uint32_t row_mask, XQ_GLOBAL uint32_t * codes, bool leader,
                           XQ_SHARED float * scale, XQ_SHARED float * zero, int lane) {
    xqg_words words = {0, 0};
    for (int i = i0; i < side.rows && i < i0 + XQ_LANES; ++i) {
        const float v  = xqg_at(x, i, lane);
        const bool  ok = (row_mask >> (i & 31) & 1u) != 0 && xqg_has_data(v, lane_mask, lane);
        const float lo = xqg_warp_min(ok ? v : INFINITY), hi = xqg_warp_max(ok ? v : -INFINITY);
        xqg_fit f = {0.0f, 0.0f};
        uint32_t code = 0;
        if (lo <= hi) { // a row without data has neither
            f.scale = xq_relaxed_scale(lo, hi, side.bits, side.eta);
            f.zero  = xq_relaxed_zero(lo, hi, side.eta);
            if (leader && side.fit == XQ_FIT_LS) {
                f = xqg_fit_ls(v, (float) xqg_uniform_code(side, codes, i, lane), ok);
            } else if (!leader && ok) {
                code = (uint32_t) xq_encode(v, lo, xq_group_inv(lo, hi, side.bits), side.bits);
            }
        }
        if (lane == 0) {
            scale[i] = f.scale;
            zero[i]  = f.zero;
        }
        if (!leader) {
            words = xqg_append(words, side, codes, i, code, lane);
        }
    }
}

// row_mask: rows with data, of a strip of 32; all ones else. Shared memory: 2*rows floats.
template <class Source>
XQ_BODY void xqg_seal_uniform(xqg_place at, xq_side side, Source x, uint32_t lane_mask, uint32_t row_mask, XQ_GLOBAL uint32_t * codes,
                              bool leader, XQ_GLOBAL uint8_t * meta, XQ_SHARED float * shared) {
    XQ_SHARED float * scale = shared;
    XQ_SHARED float * zero  = shared + side.rows;
    for (int i0 = at.warp*XQ_LANES; i0 < side.rows; i0 += at.warps*XQ_LANES) {
        xqg_seal_rows(side, x, i0, lane_mask, row_mask, codes, leader, scale, zero, at.lane);
    }
    xqg_barrier();
    for (int i = at.id; i < side.rows; i += XQG_THREADS) {
        if (side.meta == XQ_META_F16) {
            xqg_put_u16(meta + 2*i, xqg_stored(scale[i]));
            xqg_put_u16(meta + 2*(side.rows + i), xqg_stored(zero[i]));
        } else {
            const float half_span = scale[i] * (0.5f * (float) xq_code_max(side.bits));
            zero[i] = zero[i] + half_span; // the midpoint
        }
    }
    xqg_barrier();
    for (int i = at.warp; i < 2 && side.meta == XQ_META_Q8; i += at.warps) {
        xqg_write_grid(i == 0 ? scale : zero, side.rows, meta + 4*i, meta + XQ_META_Q8_HEAD + i*side.rows, at.lane);
    }
    xqg_barrier(); // the block's next strip uses the same memory
}
