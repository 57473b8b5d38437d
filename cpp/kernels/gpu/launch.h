// Grids and shared memory of every kernel, for the host: CUDA, Metal and the emulator launch the same.
#pragma once

#include "kernels/gpu/batch_layout.h"
#include "kernels/gpu/grid.h"
#include "kernels/gpu/layout.h"

inline int xqg_chunks(int n_kv) { return (n_kv + XQG_CHUNK - 1) / XQG_CHUNK; }

inline size_t xqg_attend_bytes(xq_side k, xq_side v, int dk, int rows, int quad_floats) {
    return sizeof(float)*(size_t) xqg_layout_of(k, v, dk, rows, quad_floats).floats;
}

// Query rows of a block, a power of two up to 8: as many as there are and as fit into `limit` bytes of shared memory.
inline int xqg_rows(xq_side k, xq_side v, int dk, int wanted, int quad_floats, size_t limit) {
    int rows = 1;
    while (rows < 8 && rows < wanted && xqg_attend_bytes(k, v, dk, 2*rows, quad_floats) <= limit) {
        rows *= 2;
    }
    return rows;
}

// Chunks of a block: one while that gives blocks enough for a large device, more where partial results would be as
// much to read and write as the codes. It depends on the context alone, so that a query's result does too.
inline int xqg_span(int n_kv) {
    const int chunks = xqg_chunks(n_kv);
    int span = 1;
    while (span < 8 && chunks/span > 64) {
        span *= 2;
    }
    return span;
}

// From so many query rows of a KV head on, the batch body (attend_batch.h) takes them: fewer would leave its blocks half
// empty. Which body computes a micro-batch depends on the whole of it, not on the slices that it is computed in.
#define XQG_BATCH_FROM 32
inline bool xqg_is_batch(int rows_of_stream, int dk, int dv, int limit) {
    return rows_of_stream >= XQG_BATCH_FROM && xqg_batch_warps(dk, dv, limit) > 0;
}

// Its rows fill a device by themselves, so four blocks at most share the context, which keeps partial results small.
inline int xqg_batch_span(int n_kv) {
    const int chunks = xqg_chunks(n_kv);
    return chunks < 4 ? 1 : (chunks + 3)/4;
}

inline xq_grid xqg_batch_grid(int n_parts, int n_head_kv, int n_stream, int rows_of_stream, int dk, int dv, int limit) {
    const int warps = xqg_batch_warps(dk, dv, limit), rows = 16*warps;
    return {n_parts, n_head_kv, n_stream*((rows_of_stream + rows - 1)/rows), 128, sizeof(float)*(size_t) xqg_batch_layout_of(dk, dv, warps).floats};
}

// Partial results are folded for so many tokens at a time as keep them below this, in bytes.
#ifndef XQG_MOST_PARTS
#define XQG_MOST_PARTS (16*1024*1024)
#endif
inline int xqg_slice(int n_tokens, int n_parts, int n_head, int dv) {
    const size_t fits = XQG_MOST_PARTS / (sizeof(float)*(size_t) n_parts*n_head*(dv + 2));
    return fits < 1 ? 1 : fits < (size_t) n_tokens ? (int) fits : n_tokens;
}

inline xq_grid xqg_attend_grid(int n_parts, int n_head_kv, int n_stream, int rows_of_stream, int rows, size_t shared) {
    return {n_parts, n_head_kv, n_stream*((rows_of_stream + rows - 1)/rows), 128, shared};
}

// Blocks that walk the list of tiles to seal: as many for any length, so that a captured graph serves all.
#define XQG_SEAL_WALKERS 16

// ranked: bytes of the ranked body's tables.
inline size_t xqg_seal_bytes(xq_side k, size_t ranked) {
    return k.meta == XQ_META_RANKED ? ranked : 2*sizeof(float)*(size_t) (k.rows > XQ_TILE ? k.rows : XQ_TILE);
}
inline xq_grid xqg_seal_grid(xq_side k, xq_side v, int n_head_kv, size_t shared) {
    return {XQG_SEAL_WALKERS, n_head_kv, k.strips + xqg_units(v), 128, shared};
}
inline size_t xqg_unpack_bytes(xq_side k) { return sizeof(uint16_t)*(size_t) k.rows; }
