// One or two value strips under an unbiased scale (xq_unbiased.h). A block calls, its first warp works: all 32 rows
// share words.
#pragma once

#include "kernels/gpu/seal_meta.h"
#include "kernels/gpu/source.h"
#include "kernels/gpu/words.h"

XQ_BODY float xqg_finite_or_0(float x) { return xq_is_finite(x) ? x : 0.0f; }

// `lanes`: valid lanes of the last of the n strips. Shared memory: 32 ints.
template <class Source>
XQ_BODY void xqg_seal_unbiased(xqg_place at, xq_side side, Source first, Source second, int n, int lanes, uint32_t row_mask,
                               XQ_GLOBAL uint32_t * codes, XQ_GLOBAL uint8_t * meta, XQ_SHARED int * log) {
    const int words = xq_side_words(side), lane = at.lane;
    const float half_levels = xq_half_levels(side.bits), count = (float) ((n - 1)*XQ_LANES + lanes);
    if (at.warp == 0) {
        const bool ok0 = n == 2 || lane < lanes, ok1 = n == 2 && lane < lanes;
        xqg_words w0 = {0, 0}, w1 = {0, 0};
        for (int i = 0; i < XQ_TILE; ++i) {
            const bool there = (row_mask >> i & 1) != 0;
            const float a = there ? xqg_finite_or_0(xqg_at(first, i, lane)) : 0.0f;
            const float b = there && n == 2 ? xqg_finite_or_0(xqg_at(second, i, lane)) : 0.0f;
            const float aa = a*a, bb = b*b, xx = xqg_warp_sum(n == 2 ? aa + bb : aa);
            const float inv = xq_unbiased_inv(xqg_sqrt(xx / count), side.bits);
            const int ca = there && ok0 ? xq_unbiased_encode(a, inv, side.bits) : 0;
            const int cb = there && ok1 ? xq_unbiased_encode(b, inv, side.bits) : 0;
            const float la = a * ((float) ca - half_levels), lb = b * ((float) cb - half_levels);
            const float scale = xq_unbiased_scale(xx, xqg_warp_sum(n == 2 ? la + lb : la));
            if (lane == 0) {
                log[i] = there && scale > 0.0f ? xq_log_of(scale) : -1;
            }
            w0 = xqg_append(w0, side, codes, i, (uint32_t) ca, lane);
            if (n == 2) {
                w1 = xqg_append(w1, side, codes + words, i, (uint32_t) cb, lane);
            }
        }
        xqg_warp_sync();
        const xqg_log_grid g = xqg_write_log_head(log, XQ_TILE, 255, meta, true, lane);
        meta[XQ_LOG_HEAD + lane] = (uint8_t) (log[lane] < 0 ? 0 : xq_log_code(log[lane], g.lowest, g.step));
    }
    xqg_barrier(); // the block's next strip uses the same memory
}
