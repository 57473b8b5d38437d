// Seal the entries of the table's list: pages to codes and metadata. Grid: x walks the list, y = KV head, z = strips of
// keys, then units of value strips.
#pragma once

#include "kernels/gpu/args.h"
#include "kernels/gpu/layout.h"
#include "kernels/gpu/seal_ranked.h"
#include "kernels/gpu/seal_unbiased.h"
#include "kernels/gpu/seal_uniform.h"

XQ_BODY uint32_t xqg_lanes_mask(int lanes) { return lanes >= XQ_LANES ? 0xFFFFFFFFu : (1u << lanes) - 1u; }

// A key strip or a value strip with minimum and maximum.
template <class Source>
XQ_BODY void xqg_seal_strip(xqg_place at, xq_side side, Source x, uint32_t lane_mask, uint32_t row_mask, XQ_GLOBAL uint32_t * codes,
                            bool leader, XQ_GLOBAL uint8_t * meta, XQ_SHARED float * shared) {
    if (side.meta == XQ_META_RANKED) {
        xqg_seal_ranked(at, side, x, lane_mask, codes, meta, (XQ_SHARED xqg_ranked *) shared);
    } else {
        xqg_seal_uniform(at, side, x, lane_mask, row_mask, codes, leader, meta, shared);
    }
}

XQ_BODY void xqg_seal_keys(xqg_place at, XQ_CONST const xqg_layer & L, xqg_planes p, int stream, int tile, int page, uint32_t cells,
                           int strip, XQ_SHARED float * shared) {
    xqg_page_keys x;
    x.page = xqg_k_page(L, p, stream, page, at.y) + strip*L.k.rows;
    x.ld   = L.k_row;
    x.rows = L.dk - strip*L.k.rows;
    XQ_GLOBAL uint32_t * codes = xqg_k_tile(L, p, stream, tile, at.y) + (xqg_size) strip*xq_side_words(L.k);
    XQ_GLOBAL uint8_t * meta = xqg_k_tile_meta(L, p, stream, tile, at.y) + xq_meta_at(L.k, strip);
    xqg_seal_strip(at, L.k, x, cells, 0xFFFFFFFFu, codes, !L.k_leads, meta, shared);
}

XQ_BODY void xqg_seal_values(xqg_place at, XQ_CONST const xqg_layer & L, xqg_planes p, int stream, int tile, int page, uint32_t cells,
                             int unit, XQ_SHARED float * shared) {
    const int step = L.v.meta == XQ_META_LOG8 ? 2 : 1, g = unit*step, n = xqg_min(step, L.v.strips - g);
    XQ_GLOBAL uint32_t * codes = xqg_v_tile(L, p, stream, tile, at.y) + (xqg_size) g*xq_side_words(L.v);
    XQ_GLOBAL uint8_t * meta = xqg_v_tile_meta(L, p, stream, tile, at.y) + xq_meta_at(L.v, g);
    xqg_page_values x, next;
    x.page  = xqg_v_page(L, p, stream, page, at.y) + g*XQ_LANES;
    x.ld    = L.v_row;
    x.lanes = xqg_strip_lanes(L.v, g);
    next = x;
    next.page += XQ_LANES;
    next.lanes = xqg_strip_lanes(L.v, g + n - 1);
    if (L.v.meta == XQ_META_LOG8) {
        xqg_seal_unbiased(at, L.v, x, next, n, next.lanes, cells, codes, meta, (XQ_SHARED int *) shared);
    } else {
        xqg_seal_strip(at, L.v, x, xqg_lanes_mask(x.lanes), cells, codes, !L.v_leads, meta, shared);
    }
}

XQ_BODY void xqg_seal(xqg_place at, XQ_CONST const xqg_layer & L, xqg_planes p, XQ_GLOBAL const int32_t * table, int walkers,
                      XQ_SHARED float * shared) {
    for (int i = at.x; i < table[3]; i += walkers) {
        XQ_GLOBAL const int32_t * e = table + table[2] + i*XQ_SEAL_INTS;
        if (at.z < L.k.strips) {
            xqg_seal_keys(at, L, p, e[0], e[1], e[2], (uint32_t) e[3], at.z, shared);
        } else {
            xqg_seal_values(at, L, p, e[0], e[1], e[2], (uint32_t) e[3], at.z - L.k.strips, shared);
        }
    }
}
