// Where a block of attention is: a stream, a KV head, and query rows (tokens x heads of the KV head).
#pragma once

#include "kernels/gpu/args.h"
#include "kernels/gpu/layout.h"

#define XQG_F16_NEG_INF 0xFC00

// A slope for every head, as ggml's soft_max_ext defines ALiBi.
XQ_BODY float xqg_alibi_slope(float max_bias, int n_head, int head) {
    if (max_bias <= 0.0f) {
        return 1.0f;
    }
    int n2 = 1;
    while (2*n2 <= n_head) {
        n2 *= 2;
    }
    return head < n2 ? xqg_exp2(-max_bias * (float) (head + 1) / (float) n2)
                     : xqg_exp2(-max_bias * 0.5f * (float) (2*(head - n2) + 1) / (float) n2);
}

// Where a block is, and what it reads.
struct xqg_block {
    int stream, page_stream; // of the micro-batch, of the cache
    int head_kv, group;      // query heads of a KV head
    int row0, rows;          // rows of the stream's tokens
    int token0;              // first token of the stream
    int positions;           // in the table: those of its tokens
    xqg_size entries;        // and its tiles
    int tiles;               // that hold cells of n_kv
};

XQ_BODY int xqg_token(xqg_block b, int r) { return (b.row0 + r) / b.group; }
XQ_BODY int xqg_head(xqg_block b, int r) { return b.head_kv*b.group + (b.row0 + r) % b.group; }

// Grid of attention: y = KV head, z = stream and rows, `most` of them a block.
XQ_BODY xqg_block xqg_block_of(xqg_place at, XQ_CONST const xqg_attend_args & a, XQ_GLOBAL const int32_t * table, int most) {
    const int per_stream = a.n_tokens / a.n_stream, group = a.n_head / a.layer.n_head_kv;
    const int row_blocks = (per_stream*group + most - 1) / most;
    xqg_block b;
    b.stream  = at.z / row_blocks;
    b.page_stream = table[0] + a.first_stream + b.stream;
    b.head_kv = at.y;
    b.group   = group;
    b.row0    = (at.z % row_blocks)*most;
    b.rows    = xqg_min(most, per_stream*group - b.row0);
    b.token0  = b.stream*per_stream;
    b.positions = XQ_TABLE_HEAD + a.first_token + b.token0;
    b.entries   = xq_table_tiles_at(a.table_tokens) + (xqg_size) (a.first_stream + b.stream)*table[1]*XQ_TILE_INTS;
    b.tiles   = xqg_min(table[1], (a.n_kv + XQ_TILE - 1)/XQ_TILE);
    return b;
}
