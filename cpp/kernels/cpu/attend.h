// Packed attention and sealing on the CPU: which tiles, in which form, for which rows. The arithmetic is in
// the primitives of kernels.h.
#pragma once

#include "format/xq_table.h"
#include "kernels/cpu/kernels.h"

#include <cstddef>
#include <cstdint>

// Packed planes and residual pages of one layer. Codes may be a leader's; metadata and pages are always its own.
// Layout of codes and metadata: [stream][tile][head][strip]; pages: f16 rows of all heads, [stream][page][32].
struct xq_layer_view {
    int dk, dv, n_head_kv;
    xq_side k, v;

    uint32_t * k_codes;
    uint32_t * v_codes;
    uint8_t  * k_meta;
    uint8_t  * v_meta;
    uint16_t * k_pages;
    uint16_t * v_pages;

    // strides between streams: u32 words, bytes, rows
    size_t k_code_stream, v_code_stream, meta_stream, page_stream;
    size_t k_row, v_row; // f16 elements between page rows

    bool k_leads, v_leads; // the codes are this layer's own

    uint32_t * k_tile(int stream, int tile, int head) const {
        return k_codes + stream*k_code_stream + ((size_t) tile*n_head_kv + head) * xq_head_words(k);
    }
    uint32_t * v_tile(int stream, int tile, int head) const {
        return v_codes + stream*v_code_stream + ((size_t) tile*n_head_kv + head) * xq_head_words(v);
    }
    uint8_t * k_tile_meta(int stream, int tile, int head) const {
        return k_meta + stream*meta_stream + ((size_t) tile*n_head_kv + head) * xq_head_meta_bytes(k);
    }
    uint8_t * v_tile_meta(int stream, int tile, int head) const {
        return v_meta + stream*meta_stream + ((size_t) tile*n_head_kv + head) * xq_head_meta_bytes(v);
    }
    uint16_t * k_page(int stream, int page, int head) const {
        return k_pages + (stream*page_stream + (size_t) page*XQ_TILE)*k_row + (size_t) head*dk;
    }
    uint16_t * v_page(int stream, int page, int head) const {
        return v_pages + (stream*page_stream + (size_t) page*XQ_TILE)*v_row + (size_t) head*dv;
    }
};

struct xq_attend_args {
    xq_layer_view layer;

    const float * q;              // [token][head][dk]
    size_t q_token, q_head;       // strides in floats
    const uint16_t * mask;        // f16 [stream][token of the stream][n_kv]
    size_t mask_token, mask_stream;
    const int32_t * table;        // xq_table.h
    const float * sinks;          // [n_head] or null

    int n_head, n_tokens, n_stream, n_kv;
    float scale, softcap, max_bias;

    // n_parts == 1: [token][head][dv], rotated back; else [part][token][head][dv + 2], as values are stored
    float * out;
    int n_parts;
};

// One part a chunk when there are few queries and threads need more to do, else 1: whole rows at once.
int xq_attend_parts(int n_tokens, int n_stream, int n_head_kv, int n_head, int n_kv, int dv);

// This thread's share of the work. With n_parts > 1 the output holds partial sums (dv values, their largest
// logit and their weight) for xq_combine.
void xq_attend(const xq_cpu_kernels & kern, const xq_attend_args & args, int ith, int nth);

// Fold n_parts partial results of every token and head: in [part][token][head][dv + 2], out [token][head][dv],
// rotated back in blocks of rot (0: not).
void xq_combine(const xq_cpu_kernels & kern, const float * in, float * out, const float * sinks, int dv, int rot, int n_head,
                int n_tokens, int n_parts, int ith, int nth);

// Seal every entry of the table's list: pages to codes and metadata.
void xq_seal_tiles(const xq_cpu_kernels & kern, const xq_layer_view & layer, const int32_t * table, int ith, int nth);
// The same for one head.
void xq_seal_head(const xq_cpu_kernels & kern, const xq_layer_view & layer, const int32_t * table, int head);

// Bytes of scratch that one thread needs for xq_attend.
size_t xq_attend_scratch(int dk, int dv);
