// Rows of a sealed strip: scale, zero point, and where the codes are.
#pragma once

#include "kernels/gpu/device.h"

#include "format/xq_ranked.h"
#include "format/xq_unbiased.h"

struct xqg_group { float scale, zero; };

// Row i of a strip that is not ranked.
XQ_BODY xqg_group xqg_read_group(xq_side side, XQ_GLOBAL const uint8_t * meta, int i) {
    xqg_group g;
    if (side.meta == XQ_META_F16) {
        g.scale = xqg_half_at(meta + 2*i);
        g.zero  = xqg_half_at(meta + 2*(side.rows + i));
    } else if (side.meta == XQ_META_Q8) {
        g.scale = xq_meta_value(xqg_half_at(meta), xqg_half_at(meta + 2), meta[XQ_META_Q8_HEAD + i]);
        const float mid = xq_meta_value(xqg_half_at(meta + 4), xqg_half_at(meta + 6), meta[XQ_META_Q8_HEAD + side.rows + i]);
        g.zero = xq_zero_of_mid(mid, g.scale, side.bits);
    } else {
        g.scale = xq_log_value(xqg_u16(meta), xqg_u16(meta + 2), meta[XQ_LOG_HEAD + i]);
        g.zero  = -g.scale*xq_half_levels(side.bits);
    }
    return g;
}

// As xq_ranked_class, for metadata in device memory.
XQ_BODY int xqg_class(XQ_GLOBAL const uint8_t * meta, int rows, int i) {
    XQ_GLOBAL const uint8_t * low = meta + XQ_RANKED_HEAD;
    XQ_GLOBAL const uint8_t * high = low + rows/8;
    return (low[i >> 3] >> (i & 7) & 1) | (high[i >> 3] >> (i & 7) & 1) << 1;
}

XQ_BODY xqg_group xqg_read_ranked(xq_side side, XQ_GLOBAL const uint8_t * meta, int i, int cls) {
    XQ_GLOBAL const uint8_t * grid = meta + xq_ranked_grid_at(cls);
    const float mid = xq_meta_value(xqg_half_at(grid), xqg_half_at(grid + 2), meta[xq_ranked_mid_at(side.rows) + i]);
    xqg_group g;
    g.scale = xq_log_value(xqg_u16(meta), xqg_u16(meta + 2), meta[xq_ranked_scale_at(side.rows) + i/2] >> 4*(i & 1) & 15);
    g.zero  = xq_zero_of_mid(mid, g.scale, xq_class_bits(cls, xq_fine(side)));
    return g;
}

// Rows of every class among those seen so far. A warp walks the rows of a strip 32 at a time.
struct xqg_counts { int of[XQ_CLASSES]; };

// Place of this lane's row in its class; the whole warp calls. Lanes behind the last row pass class -1.
XQ_BODY int xqg_place_in_class(XQ_LOCAL xqg_counts & counts, int cls, int lane) {
    const uint32_t below = (1u << lane) - 1u;
    int place = 0;
    XQG_UNROLL
    for (int c = 0; c < XQ_CLASSES; ++c) {
        const uint32_t in = xqg_ballot(cls == c);
        place = cls == c ? counts.of[c] + xqg_popcount(in & below) : place;
        counts.of[c] += xqg_popcount(in);
    }
    return place;
}

// Codes of one width: a plane of a uniform strip, or a class of a ranked one.
struct xqg_segment {
    int bits, words; // of a lane
    int first;       // first word of a lane
    int quad;        // first quad of its multipliers
};

// Segment of a class, from the rows of all classes; class 3 comes first.
XQ_BODY xqg_segment xqg_class_segment(xq_side side, XQ_LOCAL const xqg_counts & counts, int cls) {
    const int fine = xq_fine(side);
    xqg_segment s = {0, 0, 0, 0};
    XQG_UNROLL
    for (int c = XQ_CLASSES - 1; c >= 0; --c) {
        const int bits = xq_class_bits(c, fine), words = xq_class_words(counts.of[c], bits);
        if (c > cls) {
            s.first += words;
            s.quad  += bits > 0 ? words*(8/bits) : 0;
        }
        if (c == cls) {
            s.bits  = bits;
            s.words = words;
        }
    }
    return s;
}

XQ_BODY xqg_segment xqg_plane_segment(xq_side side, int plane) {
    xqg_segment s = {0, 0, 0, 0};
    for (int p = 0; p <= plane; ++p) {
        s.first += s.words;
        s.quad  += p > 0 ? s.words*(8/s.bits) : 0;
        s.bits  = xq_plane_bits(side.bits, p);
        s.words = xq_plane_words(side.rows, s.bits);
    }
    return s;
}

// The code of a row, from this lane's words of a segment.
XQ_BODY uint32_t xqg_code(XQ_GLOBAL const uint32_t * codes, xqg_segment s, int place, int lane) {
    return xq_code_get(codes[(s.first + xq_code_word(place, s.bits))*XQ_LANES + lane], place, s.bits);
}
