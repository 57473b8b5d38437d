// What the kernels are told: sizes and strides by value, planes by pointer. The meaning is that of
// kernels/cpu/attend.h.
#pragma once

#if defined(XQG_HOST)
#include "kernels/gpu/device_host.h"
#else
#include "kernels/gpu/device.h"
#endif

// Codes and metadata lie as [stream][tile][head][strip], pages as f16 rows of all heads [stream][page][32].
struct xqg_layer {
    xq_side k, v;
    xqg_size k_code_stream, v_code_stream, meta_stream, page_stream; // strides: u32 words, bytes, rows
    xqg_size k_row, v_row;                                           // f16 elements between page rows
    int dk, dv, n_head_kv;
    int k_leads, v_leads; // the codes are this layer's own
};

struct xqg_planes {
    XQ_GLOBAL uint32_t * k_codes;
    XQ_GLOBAL uint32_t * v_codes;
    XQ_GLOBAL uint8_t  * k_meta;
    XQ_GLOBAL uint8_t  * v_meta;
    XQ_GLOBAL uint16_t * k_pages;
    XQ_GLOBAL uint16_t * v_pages;
};

struct xqg_attend_args {
    xqg_layer layer;
    xqg_size q_token, q_head;          // strides in floats
    xqg_size mask_token, mask_stream;  // in f16 elements
    int n_head, n_tokens, n_stream, n_kv;
    int first_token, first_stream;     // of the micro-batch, where q, mask and out hold a part of it
    int table_tokens;                  // tokens of the whole micro-batch
    float scale, softcap, max_bias;
    int span, n_parts; // chunks of a block, blocks for all chunks
};

struct xqg_combine_args {
    int dv, rot, n_head, n_tokens, n_parts, has_sinks;
};

struct xqg_store_args {
    xqg_layer layer;
    xqg_size k_head, k_token, v_head, v_token; // strides of the new rows in floats
    int n_tokens;
};

struct xqg_seal_args {
    xqg_layer layer;
    int walkers; // blocks that share the list
};

struct xqg_strip_args {
    xq_side side;
    uint32_t row_mask, lane_mask; // rows (of 32) and lanes with data
    int leader;                   // the codes are only read
    int n, lanes;                 // unbiased: strips, valid lanes of the last one
};

// Where the parts of a layer start.
XQ_BODY XQ_GLOBAL uint32_t * xqg_k_tile(XQ_CONST const xqg_layer & L, xqg_planes p, int stream, int tile, int head) {
    return p.k_codes + stream*L.k_code_stream + ((xqg_size) tile*L.n_head_kv + head) * xq_head_words(L.k);
}
XQ_BODY XQ_GLOBAL uint32_t * xqg_v_tile(XQ_CONST const xqg_layer & L, xqg_planes p, int stream, int tile, int head) {
    return p.v_codes + stream*L.v_code_stream + ((xqg_size) tile*L.n_head_kv + head) * xq_head_words(L.v);
}
XQ_BODY XQ_GLOBAL uint8_t * xqg_k_tile_meta(XQ_CONST const xqg_layer & L, xqg_planes p, int stream, int tile, int head) {
    return p.k_meta + stream*L.meta_stream + ((xqg_size) tile*L.n_head_kv + head) * xq_head_meta_bytes(L.k);
}
XQ_BODY XQ_GLOBAL uint8_t * xqg_v_tile_meta(XQ_CONST const xqg_layer & L, xqg_planes p, int stream, int tile, int head) {
    return p.v_meta + stream*L.meta_stream + ((xqg_size) tile*L.n_head_kv + head) * xq_head_meta_bytes(L.v);
}
XQ_BODY XQ_GLOBAL uint16_t * xqg_k_page(XQ_CONST const xqg_layer & L, xqg_planes p, int stream, int page, int head) {
    return p.k_pages + (stream*L.page_stream + (xqg_size) page*XQ_TILE)*L.k_row + (xqg_size) head*L.dk;
}
XQ_BODY XQ_GLOBAL uint16_t * xqg_v_page(XQ_CONST const xqg_layer & L, xqg_planes p, int stream, int page, int head) {
    return p.v_pages + (stream*L.page_stream + (xqg_size) page*XQ_TILE)*L.v_row + (xqg_size) head*L.dv;
}
XQ_BODY int xqg_strip_lanes(xq_side side, int g) { return g + 1 < side.strips ? XQ_LANES : side.lanes_last; }
