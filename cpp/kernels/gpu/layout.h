// Shared memory of the attend body. The host sizes it with the functions that the body finds its parts with.
#pragma once

#include "format/xq_ranked.h"

#if !defined(XQG_WARPS)
#define XQG_WARPS 4
#endif
#define XQG_CHUNK_TILES 8 // as XQ_CHUNK_TILES on the CPU: 256 cells, the unit of partial results
#define XQG_CHUNK (XQG_CHUNK_TILES*XQ_TILE)
#define XQG_ROW_FLOATS 8  // numbers kept for every query row
#define XQG_VALUE_QUADS 16 // 32 tokens in two planes

// Quads of multipliers that a key strip takes: every plane or class fills its last word.
XQ_FN int xqg_key_quads(xq_side s) {
    if (s.meta == XQ_META_RANKED) {
        return (s.rows + 56) / 4; // at most 31, 15, 7 and 3 fields more than rows
    }
    int n = 0;
    for (int p = 0; p < xq_n_planes(s.bits); ++p) {
        const int bits = xq_plane_bits(s.bits, p);
        n += xq_plane_words(s.rows, bits) * (32/bits) / 4;
    }
    return n;
}

// Values: strips (or pairs that share scales) are dealt to warps; with fewer than warps, so are the tiles.
XQ_FN int xqg_units(xq_side v) { return v.meta == XQ_META_LOG8 ? (v.strips + 1)/2 : v.strips; }
XQ_FN int xqg_value_split(xq_side v) { return xqg_units(v) < XQG_WARPS ? XQG_WARPS/xqg_units(v) : 1; }

// In floats; every part starts at a multiple of 4 of them.
typedef struct {
    int q, s, all, info, work; // the last: what follows belongs to keys first, then to values
    int quads, span, where;    // a warp's part of it for keys: at, of `warp` floats
    int warp;
    int sums, value_quads;     // for values: partial outputs, then quads
    int floats;                // all of it
    int dv_pad;
} xqg_layout;

XQ_FN xqg_layout xqg_layout_of(xq_side k, xq_side v, int dk, int rows, int quad_floats) {
    xqg_layout l;
    const int dk_pad = xq_query_floats(dk), row_pad = (k.rows + 31) & ~31;
    l.dv_pad = v.strips*XQ_LANES;
    l.q    = 0;
    l.s    = l.q + rows*dk_pad;
    l.all  = l.s + rows*XQG_CHUNK;
    l.info = l.all + rows*l.dv_pad;
    l.work = l.info + rows*XQG_ROW_FLOATS;
    l.quads = 0;
    l.span  = xqg_key_quads(k)*rows*quad_floats;
    l.span  = (l.span + 3) & ~3;
    l.where = l.span + row_pad;
    l.warp  = l.where + row_pad/2;
    l.sums  = 0;
    l.value_quads = xqg_value_split(v)*rows*l.dv_pad;
    const int keys = XQG_WARPS*l.warp, values = l.value_quads + XQG_WARPS*XQG_VALUE_QUADS*rows*quad_floats;
    l.floats = l.work + (keys > values ? keys : values);
    return l;
}
