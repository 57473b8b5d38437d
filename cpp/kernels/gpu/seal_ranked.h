// A strip of ranked rows (xq_ranked.h). A block calls; its steps:
//
//   range      minimum, maximum, mean of every row, a warp a row
//   rank       the place of every row by range, each thread counting for rows of its own
//   split      words for every class: threads try splits of their own, the first of the best wins
//   meta       classes, midpoints, scales
//   codes      a warp a word: the rows of a class in ascending order
//
// f32 steps and their order are those of the reference; this file is compiled without contraction.
#pragma once

#include "kernels/gpu/seal_meta.h"
#include "kernels/gpu/source.h"
#include "kernels/gpu/strip.h"

struct xqg_ranked {
    float lo[XQ_MAX_ROWS], hi[XQ_MAX_ROWS], mean[XQ_MAX_ROWS], mid[XQ_MAX_ROWS];
    float base[XQ_MAX_ROWS], inv[XQ_MAX_ROWS];
    float range[XQ_MAX_ROWS];          // of every row, then in the order of ranks
    float sum[XQ_MAX_ROWS + 1];        // of the squared ranges in that order
    int   rank[XQ_MAX_ROWS], cls[XQ_MAX_ROWS], log[XQ_MAX_ROWS];
    int   list[XQ_MAX_ROWS];           // rows, class by class, 3 first
    float best[XQG_THREADS];
    int   which[XQG_THREADS];
    int   count[XQ_CLASSES];
};

template <class Source>
XQ_BODY void xqg_ranges(xqg_place at, xq_side side, Source x, uint32_t lane_mask, XQ_SHARED xqg_ranked * t) {
    for (int i = at.warp; i < side.rows; i += at.warps) {
        const float v  = xqg_at(x, i, at.lane);
        const bool  ok = xqg_has_data(v, lane_mask, at.lane);
        const uint32_t some = xqg_ballot(ok);
        const float lo = xqg_warp_min(ok ? v : INFINITY), hi = xqg_warp_max(ok ? v : -INFINITY), sum = xqg_warp_sum(ok ? v : 0.0f);
        if (at.lane == 0) {
            t->lo[i]    = some ? lo : 0.0f;
            t->hi[i]    = some ? hi : 0.0f;
            t->mean[i]  = some ? sum / (float) xqg_popcount(some) : 0.0f;
            t->range[i] = some ? hi - lo : 0.0f;
        }
    }
    xqg_barrier();
}

// Ranges into descending order, ties by row; and the sums of their squares.
XQ_BODY void xqg_rank(xqg_place at, int rows, XQ_SHARED xqg_ranked * t) {
    float mine[XQ_MAX_ROWS/XQG_THREADS];
    XQG_UNROLL
    for (int k = 0; k < XQ_MAX_ROWS/XQG_THREADS; ++k) {
        const int i = at.id + k*XQG_THREADS;
        mine[k] = i < rows ? t->range[i] : 0.0f;
        int rank = 0;
        for (int j = 0; j < rows && i < rows; ++j) {
            rank += t->range[j] > mine[k] || (t->range[j] == mine[k] && j < i);
        }
        if (i < rows) {
            t->rank[i] = rank;
        }
    }
    xqg_barrier();
    XQG_UNROLL
    for (int k = 0; k < XQ_MAX_ROWS/XQG_THREADS; ++k) {
        const int i = at.id + k*XQG_THREADS;
        if (i < rows) {
            t->range[t->rank[i]] = mine[k];
        }
    }
    xqg_barrier();
    if (at.id == 0) { // one thread: the order of additions is part of the format
        float sum = 0.0f;
        t->sum[0] = 0.0f;
        for (int i = 0; i < rows; ++i) {
            const float square = t->range[i]*t->range[i];
            sum = sum + square;
            t->sum[i + 1] = sum;
        }
    }
    xqg_barrier();
}

// Rows of a split, as xq_ranked_split counts them; false: it leaves rows of a fine side without words.
struct xqg_split { int n3, n2, n1; };
XQ_BODY bool xqg_split_of(xq_side s, int w3, int w2, int w1, XQ_LOCAL xqg_split & n) {
    const int fine = xq_fine(s), per = 16 >> fine;
    n.n3 = w3*per/2;
    n.n2 = n.n3 + w2*per;
    n.n1 = n.n2 + w1*per*2;
    n.n3 = xqg_min(n.n3, s.rows);
    n.n2 = xqg_min(n.n2, s.rows);
    n.n1 = xqg_min(n.n1, s.rows);
    return !fine || (s.words - w3 - w2 - w1)*32 >= s.rows - n.n1;
}

// The search of xq_ranked_split, dealt to threads. Splits are numbered in its order, of equal ones the first wins.
XQ_BODY void xqg_split_words(xqg_place at, xq_side s, XQ_SHARED xqg_ranked * t) {
    const int fine = xq_fine(s), n = s.words + 1;
    const float e3 = xq_width_error(xq_class_bits(3, fine)), e2 = xq_width_error(xq_class_bits(2, fine));
    const float e1 = xq_width_error(xq_class_bits(1, fine)), e0 = xq_width_error(xq_class_bits(0, fine));
    float best = 0.0f;
    int which = -1;
    xqg_split c;
    for (int i = at.id; i < n*n; i += XQG_THREADS) {
        const int w3 = i / n, w2 = i % n, left = s.words - w3 - w2;
        for (int w1 = fine ? 0 : left; w1 <= left && left >= 0; ++w1) {
            if (!xqg_split_of(s, w3, w2, w1, c)) {
                continue;
            }
            float e = e3*t->sum[c.n3];
            e = e + e2*(t->sum[c.n2] - t->sum[c.n3]);
            e = e + e1*(t->sum[c.n1] - t->sum[c.n2]);
            e = e + e0*(t->sum[s.rows] - t->sum[c.n1]);
            if (which < 0 || e < best) {
                best = e;
                which = i*n + w1;
            }
        }
    }
    t->best[at.id] = best;
    t->which[at.id] = which;
    xqg_barrier();
    if (at.id == 0) {
        for (int i = 1; i < XQG_THREADS; ++i) {
            const int other = t->which[i];
            if (other >= 0 && (which < 0 || t->best[i] < best || (t->best[i] == best && other < which))) {
                best = t->best[i];
                which = other;
            }
        }
        xqg_split_of(s, which / n / n, which / n % n, which % n, c);
        t->count[3] = c.n3;
        t->count[2] = c.n2 - c.n3;
        t->count[1] = c.n1 - c.n2;
        t->count[0] = s.rows - c.n1;
    }
    xqg_barrier();
}

// Classes of the rows, and the rows of every class in ascending order.
XQ_BODY void xqg_classes(xqg_place at, int rows, XQ_SHARED xqg_ranked * t) {
    const int n3 = t->count[3], n2 = n3 + t->count[2], n1 = n2 + t->count[1];
    for (int i = at.id; i < rows; i += XQG_THREADS) {
        const int rank = t->rank[i];
        t->cls[i] = rank < n3 ? 3 : rank < n2 ? 2 : rank < n1 ? 1 : 0;
    }
    xqg_barrier();
    for (int i = at.id; i < rows; i += XQG_THREADS) {
        const int cls = t->cls[i];
        int place = cls == 3 ? 0 : cls == 2 ? n3 : cls == 1 ? n2 : n1;
        for (int j = 0; j < i; ++j) {
            place += t->cls[j] == cls;
        }
        t->list[place] = i; // read behind later barriers
    }
}

// Midpoints of the rows of a class, on a grid of their own. A warp calls.
XQ_BODY void xqg_write_mids(xq_side side, int cls, XQ_SHARED xqg_ranked * t, XQ_GLOBAL uint8_t * meta, int lane) {
    float lo = INFINITY, hi = -INFINITY;
    for (int i = lane; i < side.rows; i += XQ_LANES) {
        if (t->cls[i] == cls) {
            t->mid[i] = xq_class_bits(cls, xq_fine(side)) == 0 ? t->mean[i] : xq_group_mid(t->lo[i], t->hi[i]);
            lo = xqg_fmin(lo, t->mid[i]);
            hi = xqg_fmax(hi, t->mid[i]);
        }
    }
    XQ_GLOBAL uint8_t * head = meta + xq_ranked_grid_at(cls);
    if (xqg_ballot(lo <= hi) == 0) { // no such rows
        if (lane < 4) {
            head[lane] = 0;
        }
        return;
    }
    const xqg_grid g = xqg_write_grid_head(lo, hi, head, lane);
    for (int i = lane; i < side.rows; i += XQ_LANES) {
        if (t->cls[i] == cls) {
            const int u = xq_meta_u8(t->mid[i], g.lo, g.inv);
            meta[xq_ranked_mid_at(side.rows) + i] = (uint8_t) u;
            t->mid[i] = xq_meta_value(g.lo, g.step, u);
        }
    }
}

// Scales, which need the stored midpoints, and what codes are taken from. Rows of a thread are its own.
XQ_BODY void xqg_write_scales(xqg_place at, xq_side side, XQ_SHARED xqg_ranked * t, XQ_GLOBAL uint8_t * meta) {
    for (int i = at.id; i < side.rows; i += XQG_THREADS) {
        const int bits = xq_class_bits(t->cls[i], xq_fine(side));
        const float scale = bits == 0 ? 0.0f
            : bits >= 4 ? xq_reach_scale(t->lo[i], t->hi[i], t->mid[i], bits)
            : xq_relaxed_scale(t->lo[i], t->hi[i], bits, bits == 1 ? side.eta : side.eta2);
        t->log[i] = scale > 0.0f ? (bits >= 4 ? xq_log_above(scale) : xq_log_of(scale)) : -1;
    }
    xqg_barrier();
    const xqg_log_grid g = xqg_write_log_head(t->log, side.rows, 15, meta, at.warp == 0, at.lane);
    for (int i = at.id; i < side.rows; i += XQG_THREADS) {
        const int bits = xq_class_bits(t->cls[i], xq_fine(side)), log = t->log[i];
        const int u = log < 0 ? 0 : bits >= 4 ? xq_log_code_above(log, g.lowest, g.step) : xq_log_code(log, g.lowest, g.step);
        t->rank[i] = u; // ranks have served
        if (bits >= 4) {
            const float scale = xq_log_value(g.lowest, g.step, u);
            t->base[i] = xq_zero_of_mid(t->mid[i], scale, bits);
            t->inv[i]  = scale > 0.0f ? 1.0f / scale : 0.0f;
        } else {
            t->base[i] = t->lo[i];
            t->inv[i]  = xq_group_inv(t->lo[i], t->hi[i], bits);
        }
    }
    xqg_barrier();
    for (int i = at.id; i < side.rows/2; i += XQG_THREADS) {
        meta[xq_ranked_scale_at(side.rows) + i] = (uint8_t) (t->rank[2*i] | t->rank[2*i + 1] << 4);
    }
    for (int i = at.id; i < side.rows/8; i += XQG_THREADS) {
        int low = 0, high = 0;
        for (int j = 0; j < 8; ++j) {
            low  |= (t->cls[8*i + j] & 1) << j;
            high |= (t->cls[8*i + j] >> 1) << j;
        }
        meta[XQ_RANKED_HEAD + i] = (uint8_t) low;
        meta[XQ_RANKED_HEAD + side.rows/8 + i] = (uint8_t) high;
    }
}

template <class Source>
XQ_BODY void xqg_write_ranked_codes(xqg_place at, xq_side side, Source x, uint32_t lane_mask, XQ_SHARED const xqg_ranked * t,
                                    XQ_GLOBAL uint32_t * codes) {
    for (int w = at.warp; w < side.words; w += at.warps) {
        uint32_t word = 0;
        int first = 0, at_word = w; // rows and words of the classes before
        for (int c = XQ_CLASSES - 1; c >= 0; --c) {
            const int bits = xq_class_bits(c, xq_fine(side)), words = xq_class_words(t->count[c], bits);
            if (at_word >= 0 && at_word < words) {
                const int place0 = at_word*(32/bits);
                for (int place = place0; place < place0 + 32/bits && place < t->count[c]; ++place) {
                    const int row = t->list[first + place];
                    const float v = xqg_at(x, row, at.lane);
                    const bool ok = xqg_has_data(v, lane_mask, at.lane);
                    word = xq_code_put(word, place, bits, ok ? (uint32_t) xq_encode(v, t->base[row], t->inv[row], bits) : 0);
                }
            }
            at_word -= words;
            first   += t->count[c];
        }
        codes[w*XQ_LANES + at.lane] = word;
    }
}

template <class Source>
XQ_BODY void xqg_seal_ranked(xqg_place at, xq_side side, Source x, uint32_t lane_mask, XQ_GLOBAL uint32_t * codes, XQ_GLOBAL uint8_t * meta,
                             XQ_SHARED xqg_ranked * t) {
    xqg_ranges(at, side, x, lane_mask, t);
    xqg_rank(at, side.rows, t);
    xqg_split_words(at, side, t);
    xqg_classes(at, side.rows, t);
    for (int cls = at.warp; cls < XQ_CLASSES; cls += at.warps) {
        xqg_write_mids(side, cls, t, meta, at.lane);
    }
    xqg_barrier();
    xqg_write_scales(at, side, t, meta);
    xqg_write_ranked_codes(at, side, x, lane_mask, t, codes);
    // no barrier: the block's next strip begins with ranges, which nobody reads any more, and a barrier
}
