// Kernel-level entry points: what tests, the self-test and microbenchmarks call on plain arrays. Every function
// takes the implementation's name ("reference", "generic", "avx512", "avx2", "neon", ...); unknown or unsupported names return -1.
// Functions of a whole layer take a ggml device's name too ("CUDA0"), if its backend has packed kernels; -2 means that it does not
// take this layer, or failed.
#pragma once

#include "capi/xquant.h"

#ifdef __cplusplus
extern "C" {
#endif

// One side of a layer, as xq_side (format/xq_format.h).
typedef struct {
    int32_t bits, meta, rows, strips, lanes_last, fit, words, rot;
    float   eta, eta2;
} xq_api_side;

// u32 words and bytes of a side's strip.
XQ_API int xq_api_strip_words(const xq_api_side * side);
XQ_API int xq_api_meta_bytes(const xq_api_side * side);

// Quantise / dequantise one strip; contracts in reference/reference.h.
XQ_API int xq_api_seal(const char * impl, const xq_api_side * side, const float * x, const uint8_t * row_ok, uint32_t lane_mask,
                       uint32_t * codes, int leader, uint8_t * meta);
XQ_API int xq_api_seal_unbiased(const char * impl, const xq_api_side * side, const float * x, int n, int lanes, const uint8_t * row_ok,
                                uint32_t * codes, uint8_t * meta);
XQ_API int xq_api_unpack(const char * impl, const xq_api_side * side, const uint32_t * codes, const uint8_t * meta, float * out);

// acc[n][32] += m[n][m_stride] . codes[rows][32]
XQ_API int xq_api_mac(const char * impl, int bits, int rows, const uint32_t * codes, const float * m, int m_stride, int n, float * acc);

// Rotate n values in blocks, in place.
XQ_API int xq_api_rotate(const char * impl, float * x, int n, int block);

// A whole layer: seal the table's list, then attend. Arrays as in kernels/cpu/attend.h, one stream layout.
typedef struct {
    int32_t dk, dv, n_head, n_head_kv, n_tokens, n_stream, n_kv, n_tiles, n_rows, n_threads, whole_rows;
    float   scale, softcap, max_bias;
    xq_api_side k, v;
    uint32_t * k_codes;
    uint32_t * v_codes;
    uint8_t  * meta;      // [stream][key metadata of all tiles, value metadata of all tiles]
    uint16_t * k_pages;
    uint16_t * v_pages;
    const float    * q;   // [n_tokens][n_head][dk]
    const uint16_t * mask;// f16 [n_stream][n_tokens/n_stream][n_kv]
    const int32_t  * table;
    const float    * sinks;
    float * out;          // [n_tokens][n_head][dv]
    int32_t k_leads, v_leads;
} xq_api_layer;

XQ_API int xq_api_seal_layer(const char * impl, const xq_api_layer * layer);
// whole_rows 0: partial results of every chunk, then combined, as in decoding; 1: whole rows, as in prefill.
XQ_API int xq_api_attend(const char * impl, const xq_api_layer * layer);

// What the cache does outside a graph (cache/convert.h), for a layer with n_stream streams: a page to a tile's codes, bit set in
// `cells`: the row holds data; and a tile's codes to a page.
XQ_API int xq_api_seal_tile(const xq_api_layer * layer, int n_stream, int stream, int tile, int page, uint32_t cells);
XQ_API int xq_api_read_back(const xq_api_layer * layer, int n_stream, int stream, int tile, int page);

#ifdef __cplusplus
}
#endif
