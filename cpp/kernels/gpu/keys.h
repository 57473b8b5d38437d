// Scores of one tile for the query rows of a block, by one warp: lane = cell.
#pragma once

#include "kernels/gpu/args.h"
#include "kernels/gpu/layout.h"
#include "kernels/gpu/mac.h"

// A warp's own part of shared memory.
struct xqg_key_work {
    XQ_SHARED xqg_quad * quads;
    XQ_SHARED float    * span;  // scale of every row times 2^bits: what the row spans
    XQ_SHARED uint16_t * where; // class and place of every row
};

// Scales, and where codes are: everything of a strip that does not depend on the query. Also the sums over rows that
// do: offset[r] = q[r] . zero, share[r] = the largest |q[r] span|, which bounds a channel's share of a logit.
template <int ROWS>
XQ_BODY xqg_counts xqg_read_keys(xq_side side, XQ_GLOBAL const uint8_t * meta, XQ_SHARED const float * q, int ldq, xqg_key_work w,
                                 XQ_LOCAL float * share, XQ_LOCAL float * offset, int lane) {
    xqg_counts counts = {{0, 0, 0, 0}};
    XQG_UNROLL
    for (int r = 0; r < ROWS; ++r) {
        share[r] = offset[r] = 0.0f;
    }
    for (int base = 0; base < side.rows; base += XQ_LANES) {
        const int i = base + lane;
        const bool there = i < side.rows;
        int cls = 0, place = i, bits = side.bits;
        if (side.meta == XQ_META_RANKED) { // all lanes go this way or none
            cls   = there ? xqg_class(meta, side.rows, i) : -1;
            place = xqg_place_in_class(counts, cls, lane);
            bits  = xq_class_bits(cls, xq_fine(side));
        }
        if (!there) {
            continue;
        }
        const xqg_group g = side.meta == XQ_META_RANKED ? xqg_read_ranked(side, meta, i, cls) : xqg_read_group(side, meta, i);
        const float span = g.scale * (float) (1 << bits);
        w.span[i]  = span;
        w.where[i] = (uint16_t) (cls << 9 | place);
        XQG_UNROLL
        for (int r = 0; r < ROWS; ++r) {
            const float x = q[r*ldq + i];
            share[r]   = xqg_fmax(share[r], xqg_abs(x*span));
            offset[r] += x*g.zero;
        }
    }
    XQG_UNROLL
    for (int r = 0; r < ROWS; ++r) {
        share[r]  = xqg_warp_max(share[r]);
        offset[r] = xqg_warp_sum(offset[r]);
    }
    return counts;
}

// The segments of a key strip: up to two planes, or four classes. `weight`: what a code of the segment counts.
struct xqg_key_segment { xqg_segment s; float factor; };
XQ_BODY xqg_key_segment xqg_segment_of(xq_side side, XQ_LOCAL const xqg_counts & counts, int k) {
    xqg_key_segment out;
    if (side.meta == XQ_META_RANKED) {
        out.s = xqg_class_segment(side, counts, XQ_CLASSES - 1 - k);
        out.factor = 1.0f / (float) (1 << out.s.bits);
    } else {
        out.s = xqg_plane_segment(side, k);
        out.factor = (k == 0 ? 1.0f : 4.0f) / (float) (1 << side.bits);
    }
    return out;
}
XQ_BODY int xqg_n_segments(xq_side side) { return side.meta == XQ_META_RANKED ? XQ_CLASSES : xq_n_planes(side.bits); }

// Multipliers of all rows into the order in which codes meet them. Fields without a row meet zeros.
template <int ROWS>
XQ_BODY void xqg_put_keys(xq_side side, XQ_LOCAL const xqg_counts & counts, XQ_SHARED const float * q, int ldq, xqg_key_work w,
                          XQ_LOCAL const float * share, int lane) {
    const bool ranked = side.meta == XQ_META_RANKED;
    for (int i = lane; i < xqg_key_quads(side)*ROWS; i += XQ_LANES) {
        xqg_clear(w.quads + i);
    }
    xqg_warp_sync();
    for (int k = 0; k < xqg_n_segments(side); ++k) {
        const xqg_segment seg = xqg_segment_of(side, counts, k).s;
        if (seg.words == 0) {
            continue;
        }
        for (int i = lane; i < side.rows; i += XQ_LANES) {
            const int cls = w.where[i] >> 9, place = w.where[i] & 511;
            if (ranked && cls != XQ_CLASSES - 1 - k) {
                continue;
            }
            const xqg_slot slot = xqg_slot_of(place, seg.bits);
            const float span = w.span[i];
            XQG_UNROLL
            for (int r = 0; r < ROWS; ++r) {
                xqg_put(w.quads + (seg.quad + slot.quad)*ROWS + r, slot.byte, q[r*ldq + i]*span*xqg_inv(share[r]));
            }
        }
    }
    xqg_warp_sync();
}

// One row of queries in f32, where integers are too coarse.
XQ_BODY float xqg_exact_score(xq_side side, XQ_LOCAL const xqg_counts & counts, XQ_GLOBAL const uint32_t * codes,
                              XQ_SHARED const float * q, xqg_key_work w, int lane) {
    float sum = 0.0f;
    XQG_NO_UNROLL
    for (int k = 0; k < xqg_n_segments(side); ++k) {
        const xqg_key_segment seg = xqg_segment_of(side, counts, k);
        if (seg.s.words == 0) {
            continue;
        }
        XQG_NO_UNROLL
        for (int i = 0; i < side.rows; ++i) {
            if (side.meta != XQ_META_RANKED || w.where[i] >> 9 == XQ_CLASSES - 1 - k) {
                sum += q[i]*w.span[i]*seg.factor * (float) xqg_code(codes, seg.s, w.where[i] & 511, lane);
            }
        }
    }
    return sum;
}

// score[r] += q[r] . key of this lane's cell in one strip of a sealed tile.
template <int ROWS>
XQ_BODY void xqg_score_strip(xq_side side, XQ_GLOBAL const uint32_t * codes, XQ_GLOBAL const uint8_t * meta, XQ_SHARED const float * q,
                             int ldq, xqg_key_work w, XQ_LOCAL float * score, int lane) {
    float share[ROWS], step[ROWS];
    const xqg_counts counts = xqg_read_keys<ROWS>(side, meta, q, ldq, w, share, step, lane);
    XQG_UNROLL
    for (int r = 0; r < ROWS; ++r) {
        score[r] += step[r]; // the sum over zero points
    }
    xqg_put_keys<ROWS>(side, counts, q, ldq, w, share, lane);
    XQG_UNROLL
    for (int r = 0; r < ROWS; ++r) {
        step[r] = xqg_too_coarse(share[r]) ? 0.0f : xqg_step(share[r]);
    }
    XQG_NO_UNROLL
    for (int k = 0; k < xqg_n_segments(side); ++k) {
        const xqg_key_segment seg = xqg_segment_of(side, counts, k);
        xqg_mac<ROWS>(codes, seg.s, w.quads, seg.factor, step, score, lane);
    }
    XQG_UNROLL
    for (int r = 0; r < ROWS; ++r) {
        if (xqg_too_coarse(share[r])) {
            score[r] += xqg_exact_score(side, counts, codes, q + r*ldq, w, lane);
        }
    }
    xqg_warp_sync(); // the next strip's multipliers overwrite these
}

// score[r] = q[r] . key of this lane's cell in a sealed tile.
template <int ROWS>
XQ_BODY void xqg_score_codes(xq_side side, XQ_GLOBAL const uint32_t * codes, XQ_GLOBAL const uint8_t * meta, XQ_SHARED const float * q,
                             int ldq, xqg_key_work w, XQ_LOCAL float * score, int lane) {
    XQG_UNROLL
    for (int r = 0; r < ROWS; ++r) {
        score[r] = 0.0f;
    }
    XQG_NO_UNROLL
    for (int g = 0; g < side.strips; ++g) {
        xqg_score_strip<ROWS>(side, codes + g*xq_side_words(side), meta + xq_meta_at(side, g), q + g*side.rows, ldq, w,
                              score, lane);
    }
}

// The same from a page. Lanes read rows of their own, two channels at a time: few tiles are pages.
template <int ROWS>
XQ_BODY void xqg_score_page(XQ_GLOBAL const uint16_t * page, xqg_size ldk, int dk, XQ_SHARED const float * q, int ldq,
                            XQ_LOCAL float * score, int lane) {
    XQ_GLOBAL const uint32_t * pairs = (XQ_GLOBAL const uint32_t *) (page + lane*ldk);
    XQG_UNROLL
    for (int r = 0; r < ROWS; ++r) {
        score[r] = 0.0f;
    }
    for (int i = 0; i < dk/2; ++i) {
        const float a = xqg_half((uint16_t) (pairs[i] & 0xFFFFu)), b = xqg_half((uint16_t) (pairs[i] >> 16));
        XQG_UNROLL
        for (int r = 0; r < ROWS; ++r) {
            score[r] += a*q[r*ldq + 2*i] + b*q[r*ldq + 2*i + 1];
        }
    }
}
