// Packed attention, one block: ROWS query rows (tokens x heads of one KV head) over `span` chunks of 256 cells.
//
//   scores     a warp takes a tile: codes are read once for all rows (keys.h)
//   softmax    a warp takes a row of the chunk
//   values     a warp takes strips, or strips and a part of the tiles (values.h)
//   fold       the chunk into what the block has so far
//
// A chunk is summed apart and chunks are folded in order by the same steps here and in combine.h, so results do not
// depend on how many blocks share the work. What a row computes never depends on the rows beside it.
#pragma once

#include "kernels/gpu/block.h"
#include "kernels/gpu/keys.h"
#include "kernels/gpu/values.h"

// Numbers of a query row in shared memory, XQG_ROW_FLOATS apart.
enum { XQG_SLOPE, XQG_ALL_TOP, XQG_ALL_SUM, XQG_KEEP, XQG_ADD };

// How every row reads a tile: bit r of codes or of pages, or of neither.
struct xqg_forms { uint32_t codes, pages; int page; };
template <int ROWS>
XQ_BODY xqg_forms xqg_forms_of(xqg_block b, XQ_GLOBAL const int32_t * table, int tile) {
    XQ_GLOBAL const int32_t * at = table + b.entries + tile*XQ_TILE_INTS;
    xqg_forms f;
    f.codes = f.pages = 0;
    f.page  = at[0];
    XQG_UNROLL
    for (int r = 0; r < ROWS; ++r) {
        const int form = r < b.rows ? xq_tile_read(at[0], at[1], table[b.positions + xqg_token(b, r)]) : XQ_READ_NONE;
        f.codes |= (uint32_t) (form == XQ_READ_CODES) << r;
        f.pages |= (uint32_t) (form == XQ_READ_PAGE) << r;
    }
    return f;
}

// Logits of a tile into s. A warp calls.
template <int ROWS>
XQ_BODY void xqg_score_tile(XQ_CONST const xqg_attend_args & a, xqg_planes p, XQ_GLOBAL const uint16_t * mask, XQ_GLOBAL const int32_t * table,
                            xqg_block b, int tile, XQ_SHARED const float * q, int ldq, XQ_SHARED const float * info, xqg_key_work w,
                            XQ_SHARED float * s, int lane) {
    const int  cell = tile*XQ_TILE + lane;
    const bool there = cell < a.n_kv;
    XQ_GLOBAL const uint16_t * m = mask + b.stream*a.mask_stream + cell;
    uint32_t seen = 0; // rows that see this lane's cell
    XQG_UNROLL
    for (int r = 0; r < ROWS; ++r) {
        seen |= (uint32_t) (r < b.rows && there && m[xqg_token(b, r)*a.mask_token] != XQG_F16_NEG_INF) << r;
    }
    const bool visible = xqg_ballot(seen != 0) != 0;
    const xqg_forms f = xqg_forms_of<ROWS>(b, table, tile);
    for (int form = XQ_READ_NONE; form <= XQ_READ_CODES; ++form) {
        const uint32_t rows = !visible ? (form == XQ_READ_NONE ? 0xFFFFFFFFu : 0u)
                            : form == XQ_READ_CODES ? f.codes : form == XQ_READ_PAGE ? f.pages : ~(f.codes | f.pages);
        if (rows == 0) {
            continue;
        }
        float score[ROWS];
        XQG_UNROLL
        for (int r = 0; r < ROWS; ++r) {
            score[r] = XQG_HIDDEN;
        }
        if (form == XQ_READ_CODES) {
            xqg_score_codes<ROWS>(a.layer.k, xqg_k_tile(a.layer, p, b.page_stream, tile, b.head_kv),
                                  xqg_k_tile_meta(a.layer, p, b.page_stream, tile, b.head_kv), q, ldq, w, score, lane);
        } else if (form == XQ_READ_PAGE) {
            xqg_score_page<ROWS>(xqg_k_page(a.layer, p, b.page_stream, f.page, b.head_kv), a.layer.k_row, a.layer.dk, q, ldq, score, lane);
        }
        XQG_UNROLL
        for (int r = 0; r < ROWS; ++r) {
            if (!(rows >> r & 1)) {
                continue;
            }
            float x = score[r];
            if (form == XQ_READ_NONE || !(seen >> r & 1)) {
                x = XQG_HIDDEN;
            } else {
                x = a.softcap != 0.0f ? a.softcap*xqg_tanh(x) : x;
                x += info[r*XQG_ROW_FLOATS + XQG_SLOPE] * xqg_half(m[xqg_token(b, r)*a.mask_token]);
            }
            s[r*XQG_CHUNK] = x;
        }
    }
}

// Weights of a row's chunk, and how it folds into what is there. A warp calls.
XQ_BODY void xqg_softmax(XQ_SHARED float * s, int n, XQ_SHARED float * info, int lane) {
    float top = XQG_HIDDEN, sum = 0.0f;
    for (int i = lane; i < n; i += XQ_LANES) {
        top = xqg_fmax(top, s[i]);
    }
    top = xqg_warp_max(top);
    for (int i = lane; i < n; i += XQ_LANES) {
        const float x = xqg_exp_from(s[i], top);
        s[i] = x;
        sum += x;
    }
    sum = xqg_warp_sum(sum);
    if (lane == 0) {
        const float old = info[XQG_ALL_TOP], next = xqg_fmax(old, top);
        const float keep = xqg_exp_from(old, next), add = xqg_exp_from(top, next);
        info[XQG_ALL_SUM] = xqg_fma(sum, add, info[XQG_ALL_SUM]*keep);
        info[XQG_ALL_TOP] = next;
        info[XQG_KEEP] = keep;
        info[XQG_ADD]  = add;
    }
}

// A chunk's values for one unit of strips. A warp calls.
template <int ROWS>
XQ_BODY void xqg_chunk_values(XQ_CONST const xqg_attend_args & a, xqg_planes p, XQ_GLOBAL const int32_t * table, xqg_block b, int first, int n,
                              int unit, int part, int split, XQ_SHARED const float * s, XQ_SHARED xqg_quad * quads, XQ_SHARED float * sums,
                              int dv_pad, int lane) {
    const int step  = a.layer.v.meta == XQ_META_LOG8 ? 2 : 1, strip = unit*step;
    const int many  = xqg_min(step, a.layer.v.strips - strip);
    float acc[2*ROWS];
    XQG_UNROLL
    for (int r = 0; r < 2*ROWS; ++r) {
        acc[r] = 0.0f;
    }
    for (int i = part; i < n; i += split) {
        const xqg_forms f = xqg_forms_of<ROWS>(b, table, first + i);
        float weight[ROWS], most = 0.0f;
        XQG_UNROLL
        for (int r = 0; r < ROWS; ++r) {
            const float x = r < b.rows ? s[r*XQG_CHUNK + i*XQ_TILE + lane] : 0.0f;
            most = xqg_fmax(most, x);
            weight[r] = f.codes >> r & 1 ? x : 0.0f;
        }
        if (xqg_ballot(most > 0.0f) == 0) {
            continue; // nobody sees the tile
        }
        if (f.codes) {
            xqg_add_codes<ROWS>(a.layer.v, xqg_v_tile(a.layer, p, b.page_stream, first + i, b.head_kv) + (xqg_size) strip*xq_side_words(a.layer.v),
                                xqg_v_tile_meta(a.layer, p, b.page_stream, first + i, b.head_kv) + xq_meta_at(a.layer.v, strip), many, weight,
                                quads, acc, lane);
        }
        if (f.pages) {
            const int end = xqg_min(a.layer.dv, (strip + many)*XQ_LANES);
            xqg_add_page<ROWS>(xqg_v_page(a.layer, p, b.page_stream, f.page, b.head_kv), a.layer.v_row, end, strip*XQ_LANES, s + i*XQ_TILE,
                               f.pages, acc, lane);
        }
    }
    XQG_UNROLL
    for (int r = 0; r < ROWS; ++r) {
        XQ_SHARED float * out = sums + (part*ROWS + r)*dv_pad + strip*XQ_LANES + lane;
        out[0] = acc[r];
        if (many == 2) {
            out[XQ_LANES] = acc[ROWS + r];
        }
    }
}

// Grid: x = part, y = KV head, z = stream and rows. Output [part][token][head][dv + 2]: values as they are stored (not
// divided by their sum), the largest logit, the sum of weights.
template <int ROWS>
XQ_BODY void xqg_attend(xqg_place at, XQ_CONST const xqg_attend_args & a, xqg_planes p, XQ_GLOBAL const float * q_in,
                        XQ_GLOBAL const uint16_t * mask, XQ_GLOBAL const int32_t * table, XQ_GLOBAL float * out, XQ_SHARED float * shared) {
    const int quad_floats = (int) (sizeof(xqg_quad)/sizeof(float)), lane = at.lane;
    const int dk = a.layer.dk, dv = a.layer.dv, ldq = xq_query_floats(dk);
    const xqg_layout l = xqg_layout_of(a.layer.k, a.layer.v, dk, ROWS, quad_floats);
    XQ_SHARED float * q = shared + l.q;
    XQ_SHARED float * s = shared + l.s;
    XQ_SHARED float * all  = shared + l.all;
    XQ_SHARED float * info = shared + l.info;
    XQ_SHARED float * work = shared + l.work;

    const xqg_block b = xqg_block_of(at, a, table, ROWS);

    const float scale = a.softcap != 0.0f ? a.scale / a.softcap : a.scale;
    for (int i = at.id; i < ROWS*ldq; i += XQG_THREADS) {
        const int r = i / ldq, d = i % ldq;
        const bool in = r < b.rows && d < dk;
        q[i] = in ? q_in[(b.token0 + xqg_token(b, r))*a.q_token + xqg_head(b, r)*a.q_head + d]*scale : 0.0f;
    }
    for (int i = at.id; i < ROWS*l.dv_pad; i += XQG_THREADS) {
        all[i] = 0.0f;
    }
    for (int r = at.id; r < ROWS; r += XQG_THREADS) {
        info[r*XQG_ROW_FLOATS + XQG_SLOPE]   = xqg_alibi_slope(a.max_bias, a.n_head, r < b.rows ? xqg_head(b, r) : 0);
        info[r*XQG_ROW_FLOATS + XQG_ALL_TOP] = XQG_HIDDEN;
        info[r*XQG_ROW_FLOATS + XQG_ALL_SUM] = 0.0f;
    }
    xqg_barrier();

    xqg_key_work w;
    w.quads = (XQ_SHARED xqg_quad *) (work + at.warp*l.warp + l.quads);
    w.span  = work + at.warp*l.warp + l.span;
    w.where = (XQ_SHARED uint16_t *) (work + at.warp*l.warp + l.where);
    XQ_SHARED float * sums = work + l.sums;
    XQ_SHARED xqg_quad * value_quads = (XQ_SHARED xqg_quad *) (work + l.value_quads) + at.warp*XQG_VALUE_QUADS*ROWS;
    const int units = xqg_units(a.layer.v), split = xqg_value_split(a.layer.v);

    const int chunks = (b.tiles + XQG_CHUNK_TILES - 1)/XQG_CHUNK_TILES;
    for (int chunk = at.x*a.span; chunk < xqg_min(chunks, (at.x + 1)*a.span); ++chunk) {
        const int first = chunk*XQG_CHUNK_TILES, n = xqg_min(XQG_CHUNK_TILES, b.tiles - first);
        for (int i = at.warp; i < n; i += XQG_WARPS) {
            xqg_score_tile<ROWS>(a, p, mask, table, b, first + i, q, ldq, info, w, s + i*XQ_TILE + lane, lane);
        }
        xqg_barrier();
        for (int r = at.warp; r < b.rows; r += XQG_WARPS) {
            xqg_softmax(s + r*XQG_CHUNK, n*XQ_TILE, info + r*XQG_ROW_FLOATS, lane);
        }
        xqg_barrier();
        for (int u = at.warp; u < units*split; u += XQG_WARPS) {
            xqg_chunk_values<ROWS>(a, p, table, b, first, n, u % units, u / units, split, s, value_quads, sums, l.dv_pad, lane);
        }
        xqg_barrier();
        for (int i = at.id; i < b.rows*l.dv_pad; i += XQG_THREADS) {
            const int r = i / l.dv_pad;
            float sum = 0.0f;
            for (int part = 0; part < split; ++part) {
                sum += sums[part*ROWS*l.dv_pad + i];
            }
            all[i] = xqg_fma(sum, info[r*XQG_ROW_FLOATS + XQG_ADD], all[i]*info[r*XQG_ROW_FLOATS + XQG_KEEP]);
        }
        xqg_barrier(); // the next chunk's scores overwrite what this one's values were made of
    }

    for (int r = 0; r < b.rows; ++r) {
        const xqg_size row = (xqg_size) (b.token0 + xqg_token(b, r))*a.n_head + xqg_head(b, r);
        XQ_GLOBAL float * o = out + ((xqg_size) at.x*a.n_tokens*a.n_head + row)*(dv + 2);
        for (int i = at.id; i < dv; i += XQG_THREADS) {
            o[i] = all[r*l.dv_pad + i];
        }
        if (at.id == 0) {
            o[dv]     = info[r*XQG_ROW_FLOATS + XQG_ALL_TOP];
            o[dv + 1] = info[r*XQG_ROW_FLOATS + XQG_ALL_SUM];
        }
    }
}
