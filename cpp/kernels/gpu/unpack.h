// Codes back to numbers: a strip to f32, or a bounded range of tiles to f16 scratch for the matrix path of prefill.
#pragma once

#include "kernels/gpu/args.h"
#include "kernels/gpu/strip.h"

// Where a strip's numbers go: xqg_emit(sink, row, lane, x).
struct xqg_to_strip { XQ_GLOBAL float * out; };  // [row][32]
struct xqg_to_keys { XQ_GLOBAL uint16_t * out; xqg_size ld; };               // [token][channel]
struct xqg_to_values { XQ_GLOBAL uint16_t * out; xqg_size ld; int lanes; };
XQ_BODY void xqg_emit(xqg_to_strip s, int row, int lane, float x) { s.out[row*XQ_LANES + lane] = x; }
XQ_BODY void xqg_emit(xqg_to_keys s, int row, int lane, float x) { s.out[lane*s.ld + row] = xqg_to_half(x); }
XQ_BODY void xqg_emit(xqg_to_values s, int row, int lane, float x) {
    if (lane < s.lanes) {
        s.out[row*s.ld + lane] = xqg_to_half(x);
    }
}

// A block calls; every warp takes rows in turn.
template <class Sink>
XQ_BODY void xqg_unpack_strip(xqg_place at, xq_side side, XQ_GLOBAL const uint32_t * codes, XQ_GLOBAL const uint8_t * meta, Sink sink,
                              XQ_SHARED uint16_t * where) {
    const bool ranked = side.meta == XQ_META_RANKED;
    xqg_counts counts = {{0, 0, 0, 0}};
    for (int base = 0; base < side.rows && ranked; base += XQ_LANES) { // every warp counts, the first one notes
        const int i = base + at.lane, cls = i < side.rows ? xqg_class(meta, side.rows, i) : -1;
        const int place = xqg_place_in_class(counts, cls, at.lane);
        if (at.warp == 0 && i < side.rows) {
            where[i] = (uint16_t) (cls << 9 | place);
        }
    }
    xqg_barrier();
    for (int i = at.warp; i < side.rows; i += at.warps) {
        xqg_group g;
        uint32_t code = 0;
        if (ranked) {
            const int cls = where[i] >> 9;
            const xqg_segment s = xqg_class_segment(side, counts, cls);
            g = xqg_read_ranked(side, meta, i, cls);
            code = s.bits > 0 ? xqg_code(codes, s, where[i] & 511, at.lane) : 0;
        } else {
            g = xqg_read_group(side, meta, i);
            code = xqg_code(codes, xqg_plane_segment(side, 0), i, at.lane);
            if (side.bits == 3) {
                code |= xqg_code(codes, xqg_plane_segment(side, 1), i, at.lane) << 2;
            }
        }
        xqg_emit(sink, i, at.lane, g.zero + g.scale*(float) code);
    }
}

// Grid: x = tile of the range, y = KV head. A tile that nobody may read becomes zeros.
XQ_BODY void xqg_unpack_tiles(xqg_place at, XQ_CONST const xqg_unpack_args & a, xqg_planes p, XQ_GLOBAL const int32_t * table,
                              XQ_GLOBAL uint16_t * k_out, XQ_GLOBAL uint16_t * v_out, XQ_SHARED uint16_t * where) {
    const int tile = a.first_tile + at.x, heads = a.layer.n_head_kv, stream = table[0] + a.stream;
    XQ_GLOBAL const int32_t * t = table + xq_table_tiles_at(a.n_tokens) + ((xqg_size) a.stream*table[1] + tile)*XQ_TILE_INTS;
    const int page = t[0], form = xq_tile_read(page, t[1], a.pos);
    const xqg_size ldk = (xqg_size) heads*a.layer.dk, ldv = (xqg_size) heads*a.layer.dv;
    XQ_GLOBAL uint16_t * k = k_out + (xqg_size) at.x*XQ_TILE*ldk + at.y*a.layer.dk;
    XQ_GLOBAL uint16_t * v = v_out + (xqg_size) at.x*XQ_TILE*ldv + at.y*a.layer.dv;
    if (form == XQ_READ_CODES) {
        xqg_to_keys keys;
        keys.out = k;
        keys.ld  = ldk;
        xqg_unpack_strip(at, a.layer.k, xqg_k_tile(a.layer, p, stream, tile, at.y), xqg_k_tile_meta(a.layer, p, stream, tile, at.y), keys, where);
        for (int g = 0; g < a.layer.v.strips; ++g) {
            xqg_to_values values;
            values.out = v + g*XQ_LANES;
            values.ld  = ldv;
            values.lanes = xqg_strip_lanes(a.layer.v, g);
            xqg_unpack_strip(at, a.layer.v, xqg_v_tile(a.layer, p, stream, tile, at.y) + (xqg_size) g*xq_side_words(a.layer.v),
                             xqg_v_tile_meta(a.layer, p, stream, tile, at.y) + xq_meta_at(a.layer.v, g), values, where);
        }
        return;
    }
    XQ_GLOBAL const uint16_t * k_page = xqg_k_page(a.layer, p, stream, xqg_max(page, 0), at.y);
    XQ_GLOBAL const uint16_t * v_page = xqg_v_page(a.layer, p, stream, xqg_max(page, 0), at.y);
    for (int i = at.id; i < XQ_TILE*a.layer.dk; i += XQG_THREADS) {
        const int c = i / a.layer.dk, d = i % a.layer.dk;
        k[c*ldk + d] = form == XQ_READ_PAGE ? k_page[c*a.layer.k_row + d] : (uint16_t) 0;
    }
    for (int i = at.id; i < XQ_TILE*a.layer.dv; i += XQG_THREADS) {
        const int c = i / a.layer.dv, d = i % a.layer.dv;
        v[c*ldv + d] = form == XQ_READ_PAGE ? v_page[c*a.layer.v_row + d] : (uint16_t) 0;
    }
}
