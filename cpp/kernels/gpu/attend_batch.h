// Packed attention for many query rows (prefill), one block: 16 rows a warp (tokens x heads of one KV head) over a range of
// tiles. A tile is taken apart once for all rows of the block, to f16 in shared memory, and multiplied there by the
// device's matrix units: no f16 copy of the cache anywhere, and pages and codes in the same pass.
//
//   see        who sees which cells of the tile, in which form
//   keys       codes or page to f16, [channel][token]; logits = queries x keys, 16 x 32 a warp
//   weights    two lanes a row
//   values     codes or page to f16 over the keys, [token][channel]; outputs += weights x values
//
// Weights are taken from a reference that follows the largest logit only when that has grown by XQG_BATCH_SLACK: outputs stay
// in the matrix units' own registers, whose layout nobody knows, and are brought out to be scaled a few times a row.
// Results are those of attend.h but for f16: queries, keys, weights and values are rounded to 11 bits.
#pragma once

#include "kernels/gpu/args.h"
#include "kernels/gpu/batch_layout.h"
#include "kernels/gpu/block.h"
#include "kernels/gpu/matrix.h"
#include "kernels/gpu/unpack.h"

#define XQG_BATCH_SLACK 5.0f // weights up to e^5: far from the end of f16

// To shared memory, in the order in which the matrix units read it.
struct xqg_to_key_columns { XQ_SHARED uint16_t * out; };                         // [channel][token]
struct xqg_to_value_rows { XQ_SHARED uint16_t * out; int ld, lanes; };           // [token][channel]
XQ_BODY uint16_t xqg_finite_half(float x) { return xqg_to_half(xqg_fmax(xqg_fmin(x, 65504.0f), -65504.0f)); }
XQ_BODY uint16_t xqg_clamped(uint16_t x) { // by its bits: fast math knows no NaN
    return (x & 0x7C00) == 0x7C00 ? (uint16_t) ((x & 0x8000) | 0x7BFF) : x;
}
XQ_BODY void xqg_emit(xqg_to_key_columns s, int row, int lane, float x) { s.out[row*XQG_BATCH_KEYS + lane] = xqg_finite_half(x); }
XQ_BODY void xqg_emit(xqg_to_value_rows s, int row, int lane, float x) {
    if (lane < s.lanes) {
        s.out[row*s.ld + lane] = xqg_finite_half(x);
    }
}

// Cells of a tile that some row of the warp sees, by the form in which it reads them.
struct xqg_cells { uint32_t codes, pages; };

// A warp calls. Rows of one token see the same.
XQ_BODY xqg_cells xqg_cells_seen(XQ_CONST const xqg_attend_args & a, XQ_GLOBAL const uint16_t * mask, XQ_GLOBAL const int32_t * table,
                                 xqg_block b, int tile, int row0, int rows, int lane) {
    XQ_GLOBAL const int32_t * at = table + b.entries + tile*XQ_TILE_INTS;
    const int cell = tile*XQ_TILE + lane;
    XQ_GLOBAL const uint16_t * m = mask + b.stream*a.mask_stream + cell;
    xqg_cells seen = {0, 0};
    for (int token = xqg_token(b, row0); row0 < rows && token <= xqg_token(b, xqg_min(row0 + 16, rows) - 1); ++token) {
        const uint32_t cells = xqg_ballot(cell < a.n_kv && m[token*a.mask_token] != XQG_F16_NEG_INF);
        const int form = xq_tile_read(at[0], at[1], table[b.positions + token]);
        seen.codes |= form == XQ_READ_CODES ? cells : 0u;
        seen.pages |= form == XQ_READ_PAGE ? cells : 0u;
    }
    return seen;
}

// The tile's keys, channels of the last 16 filled up with zeros.
XQ_BODY void xqg_batch_keys(xqg_place at, XQ_CONST const xqg_layer & L, xqg_planes p, xqg_block b, int tile, int page, bool codes,
                            XQ_SHARED uint16_t * out, XQ_SHARED uint16_t * notes) {
    if (codes) {
        xqg_to_key_columns keys;
        keys.out = out;
        xqg_unpack_strip(at, L.k, xqg_k_tile(L, p, b.page_stream, tile, b.head_kv), xqg_k_tile_meta(L, p, b.page_stream, tile, b.head_kv), keys, notes);
    } else {
        XQ_GLOBAL const uint16_t * k = xqg_k_page(L, p, b.page_stream, page, b.head_kv);
        for (int i = at.id; i < XQ_TILE*L.dk; i += XQG_THREADS) {
            const int c = i / L.dk, d = i % L.dk;
            out[d*XQG_BATCH_KEYS + c] = k[c*L.k_row + d];
        }
    }
    for (int i = L.dk*XQ_TILE + at.id; i < xqg_up16(L.dk)*XQ_TILE; i += XQG_THREADS) {
        out[i/XQ_TILE*XQG_BATCH_KEYS + i % XQ_TILE] = 0;
    }
}

// The tile's values. Cells that a row does not see have a weight of 0, but may hold anything, and 0 times that need not be 0:
// what is not finite becomes the largest number. Rows that see such a token have a NaN from its key.
// Channels behind the last one stay what they are: they reach only outputs that nobody reads.
XQ_BODY void xqg_batch_values(xqg_place at, XQ_CONST const xqg_layer & L, xqg_planes p, xqg_block b, int tile, int page, bool codes,
                              XQ_SHARED uint16_t * out, int ld, XQ_SHARED uint16_t * notes) {
    for (int g = 0; g < L.v.strips && codes; ++g) {
        xqg_to_value_rows values;
        values.out = out + g*XQ_LANES;
        values.ld  = ld;
        values.lanes = xqg_strip_lanes(L.v, g);
        xqg_unpack_strip(at, L.v, xqg_v_tile(L, p, b.page_stream, tile, b.head_kv) + (xqg_size) g*xq_side_words(L.v),
                         xqg_v_tile_meta(L, p, b.page_stream, tile, b.head_kv) + xq_meta_at(L.v, g), values, notes);
    }
    XQ_GLOBAL const uint16_t * v = xqg_v_page(L, p, b.page_stream, xqg_max(page, 0), b.head_kv);
    for (int i = at.id; i < XQ_TILE*L.dv && !codes; i += XQG_THREADS) {
        const int c = i / L.dv, d = i % L.dv;
        out[c*ld + d] = xqg_clamped(v[c*L.v_row + d]);
    }
}

// What a lane knows of its row: lanes 2r and 2r + 1 of a warp have row r, each half of its 32 cells.
struct xqg_batch_row {
    int token, form; // -1, none: there is no such row
    float slope, top, sum;
};

// Outputs of a warp, 16 rows x 16 VT channels.
template <int VT>
struct xqg_outputs { xqg_matrix of[VT]; };

// Every row times its lanes' factor, by way of the stage.
template <int VT>
XQ_BODY void xqg_scale_outputs(XQ_LOCAL xqg_outputs<VT> & o, int used, float factor, XQ_SHARED float * stage, int lane) {
    XQ_SHARED float * mine = stage + (lane >> 1)*XQG_BATCH_STAGE + 8*(lane & 1);
    XQG_UNROLL
    for (int t = 0; t < VT; ++t) {
        if (t < used) {
            xqg_warp_sync();
            xqg_matrix_store(o.of[t], stage, XQG_BATCH_STAGE);
            xqg_warp_sync();
            for (int i = 0; i < 8; ++i) {
                mine[i] *= factor;
            }
            xqg_warp_sync();
            xqg_matrix_load(o.of[t], stage, XQG_BATCH_STAGE);
        }
    }
}

// Logits on the stage to f16 weights in their place, after the outputs are on the same reference. A warp calls, and a
// barrier follows.
template <int VT>
XQ_BODY void xqg_batch_weights(XQ_CONST const xqg_attend_args & a, XQ_GLOBAL const uint16_t * mask, xqg_block b, int tile, int form,
                               XQ_LOCAL xqg_batch_row & row, XQ_LOCAL xqg_outputs<VT> & o, int used, XQ_SHARED float * stage, int lane) {
    const int side = 16*(lane & 1), cell0 = tile*XQ_TILE + side;
    XQ_GLOBAL const uint16_t * m = mask + b.stream*a.mask_stream + xqg_max(row.token, 0)*a.mask_token + cell0;
    XQ_SHARED const float * s = stage + (lane >> 1)*XQG_BATCH_STAGE + side;
    float x[16], top = XQG_HIDDEN;
    XQG_UNROLL
    for (int i = 0; i < 16; ++i) {
        x[i] = XQG_HIDDEN;
        if (row.form == form && cell0 + i < a.n_kv && m[i] != XQG_F16_NEG_INF) {
            x[i] = (a.softcap != 0.0f ? a.softcap*xqg_tanh(s[i]) : s[i]) + row.slope*xqg_half(m[i]);
        }
        top = xqg_fmax(top, x[i]);
    }
    top = xqg_fmax(top, xqg_shuffle_xor(top, 1));
    const bool grows = top > row.top + XQG_BATCH_SLACK; // from XQG_HIDDEN at the first cell that the row sees
    const float factor = grows ? xqg_exp_from(row.top, top) : 1.0f;
    if (xqg_ballot(grows && row.top > XQG_HIDDEN) != 0) {
        xqg_scale_outputs<VT>(o, used, factor, stage, lane);
    }
    row.top = grows ? top : row.top;
    row.sum *= factor;
    xqg_warp_sync(); // weights take the place of logits that other lanes read
    XQ_SHARED uint16_t * w = (XQ_SHARED uint16_t *) stage + (lane >> 1)*XQG_BATCH_KEYS + side;
    XQG_UNROLL
    for (int i = 0; i < 16; ++i) {
        const uint16_t weight = xqg_to_half(xqg_exp_from(x[i], row.top));
        w[i] = weight;
        row.sum += xqg_half(weight);
    }
}

// Grid: x = part (of a.span chunks), y = KV head, z = stream and rows. Output as of xqg_attend; the largest logit is the
// reference of the weights.
template <int VT>
XQ_BODY void xqg_attend_batch(xqg_place at, XQ_CONST const xqg_attend_args & a, xqg_planes p, XQ_GLOBAL const float * q_in,
                              XQ_GLOBAL const uint16_t * mask, XQ_GLOBAL const int32_t * table, XQ_GLOBAL float * out, XQ_SHARED float * shared) {
    const int dk = a.layer.dk, dv = a.layer.dv, lane = at.lane;
    const int warps = xqg_batch_warps(dk, dv, XQG_BATCH_MEMORY), most = 16*warps, used = xqg_up16(dv)/16;
    const xqg_batch_layout l = xqg_batch_layout_of(dk, dv, warps);
    XQ_SHARED uint16_t * q  = (XQ_SHARED uint16_t *) (shared + l.q);
    XQ_SHARED uint16_t * kv = (XQ_SHARED uint16_t *) (shared + l.kv);
    XQ_SHARED uint16_t * notes = (XQ_SHARED uint16_t *) (shared + l.notes);
    XQ_SHARED uint32_t * cells = (XQ_SHARED uint32_t *) (shared + l.cells);
    XQ_SHARED float * stage = shared + l.stage + at.warp*16*XQG_BATCH_STAGE;
    const xqg_block b = xqg_block_of(at, a, table, most);
    const bool works = at.warp < warps; // the others only take tiles apart

    const float scale = a.softcap != 0.0f ? a.scale / a.softcap : a.scale;
    for (int i = at.id; i < most*xqg_up16(dk); i += XQG_THREADS) {
        const int r = i / xqg_up16(dk), d = i % xqg_up16(dk);
        const bool in = r < b.rows && d < dk;
        q[r*l.ldq + d] = in ? xqg_finite_half(q_in[(b.token0 + xqg_token(b, r))*a.q_token + xqg_head(b, r)*a.q_head + d]*scale) : (uint16_t) 0;
    }
    const int r0 = 16*at.warp, mine = r0 + (lane >> 1);
    xqg_batch_row row;
    row.token = works && mine < b.rows ? xqg_token(b, mine) : -1;
    row.slope = xqg_alibi_slope(a.max_bias, a.n_head, row.token >= 0 ? xqg_head(b, mine) : 0);
    row.top = XQG_HIDDEN;
    row.sum = 0.0f;
    xqg_outputs<VT> o;
    XQG_UNROLL
    for (int t = 0; t < VT; ++t) {
        xqg_matrix_clear(o.of[t]);
    }

    const int end = xqg_min(b.tiles, (at.x + 1)*a.span*XQG_CHUNK_TILES);
    for (int tile = at.x*a.span*XQG_CHUNK_TILES; tile < end; ++tile) {
        XQ_SHARED uint32_t * seen = cells + (tile & 1)*2*XQG_WARPS; // the last tile's may still be read
        const xqg_cells own = xqg_cells_seen(a, mask, table, b, tile, r0, works ? b.rows : 0, lane);
        if (lane == 0) {
            seen[2*at.warp]     = own.codes;
            seen[2*at.warp + 1] = own.pages;
        }
        xqg_barrier();
        XQ_GLOBAL const int32_t * entry = table + b.entries + tile*XQ_TILE_INTS;
        row.form = row.token >= 0 ? xq_tile_read(entry[0], entry[1], table[b.positions + row.token]) : XQ_READ_NONE;
        for (int form = XQ_READ_PAGE; form <= XQ_READ_CODES; ++form) {
            const bool codes = form == XQ_READ_CODES, reads = (codes ? own.codes : own.pages) != 0;
            uint32_t all = 0;
            for (int w = 0; w < XQG_WARPS; ++w) {
                all |= seen[2*w + (codes ? 0 : 1)];
            }
            if (all == 0) {
                continue; // nobody in the block reads the tile so: those in the future of all queries are never read
            }
            xqg_batch_keys(at, a.layer, p, b, tile, entry[0], codes, kv, notes);
            xqg_barrier();
            if (reads) {
                xqg_matrix logits[2];
                xqg_matrix_clear(logits[0]);
                xqg_matrix_clear(logits[1]);
                for (int d = 0; d < dk; d += 16) {
                    xqg_half_matrix rows;
                    xqg_matrix_rows(rows, q + r0*l.ldq + d, l.ldq);
                    xqg_matrix_add(logits[0], rows, kv + d*XQG_BATCH_KEYS, XQG_BATCH_KEYS);
                    xqg_matrix_add(logits[1], rows, kv + d*XQG_BATCH_KEYS + 16, XQG_BATCH_KEYS);
                }
                xqg_matrix_store(logits[0], stage, XQG_BATCH_STAGE);
                xqg_matrix_store(logits[1], stage + 16, XQG_BATCH_STAGE);
                xqg_warp_sync();
                xqg_batch_weights<VT>(a, mask, b, tile, form, row, o, used, stage, lane);
            }
            xqg_barrier(); // values take the place of keys
            xqg_batch_values(at, a.layer, p, b, tile, entry[0], codes, kv, l.ldv, notes);
            xqg_barrier();
            if (reads) {
                for (int c = 0; c < XQ_TILE; c += 16) {
                    xqg_half_matrix weights;
                    xqg_matrix_rows(weights, (XQ_SHARED const uint16_t *) stage + c, XQG_BATCH_KEYS);
                    XQG_UNROLL
                    for (int t = 0; t < VT; ++t) {
                        if (t < used) {
                            xqg_matrix_add(o.of[t], weights, kv + c*l.ldv + 16*t, l.ldv);
                        }
                    }
                }
            }
            xqg_barrier(); // the next form's or tile's keys take the place of values
        }
    }

    row.sum += xqg_shuffle_xor(row.sum, 1);
    if (r0 >= b.rows || !works) {
        return;
    }
    const xqg_size at_row = row.token >= 0 ? (xqg_size) (b.token0 + row.token)*a.n_head + xqg_head(b, mine) : 0;
    XQ_GLOBAL float * to = out + ((xqg_size) at.x*a.n_tokens*a.n_head + at_row)*(dv + 2);
    XQG_UNROLL
    for (int t = 0; t < VT; ++t) {
        if (t < used) {
            xqg_warp_sync();
            xqg_matrix_store(o.of[t], stage, XQG_BATCH_STAGE);
            xqg_warp_sync();
            for (int i = 0; i < 8; ++i) {
                const int d = 16*t + 8*(lane & 1) + i;
                if (row.token >= 0 && d < dv) {
                    to[d] = stage[(lane >> 1)*XQG_BATCH_STAGE + 8*(lane & 1) + i];
                }
            }
        }
    }
    if (row.token >= 0 && (lane & 1) == 0) {
        to[dv]     = row.top;
        to[dv + 1] = row.sum;
    }
}
