#include "kernels/cpu/attend.h"

#include "ggml.h"

// Keys: the page transposed, so that a row is a channel. Values: 32 channels at a time, so that a row is a token.
static void seal_head(const xq_cpu_kernels & kern, const xq_layer_view & L, int stream, int tile, int page, int head,
                      uint32_t mask) {
    alignas(32) float x[XQ_MAX_HEAD_DIM * XQ_LANES];
    kern.transpose_f16(L.k_page(stream, page, head), L.k_row, L.dk, x);
    kern.seal_strip(L.k, x, nullptr, mask, L.k_tile(stream, tile, head), !L.k_leads, L.k_tile_meta(stream, tile, head));

    uint8_t row_ok[XQ_TILE];
    for (int t = 0; t < XQ_TILE; ++t) {
        row_ok[t] = mask >> t & 1;
    }
    const uint16_t * rows  = L.v_page(stream, page, head);
    uint32_t       * codes = L.v_tile(stream, tile, head);
    uint8_t        * meta  = L.v_tile_meta(stream, tile, head);
    for (int g = 0; g < L.v.strips; ++g) {
        const int lanes = g + 1 < L.v.strips ? XQ_LANES : L.v.lanes_last;
        for (int t = 0; t < XQ_TILE; ++t) {
            for (int l = 0; l < lanes; ++l) {
                x[t*XQ_LANES + l] = ggml_fp16_to_fp32(rows[t*L.v_row + g*XQ_LANES + l]);
            }
        }
        const uint32_t lane_mask = lanes == XQ_LANES ? 0xFFFFFFFFu : (1u << lanes) - 1u;
        kern.seal_strip(L.v, x, mask == 0xFFFFFFFFu ? nullptr : row_ok, lane_mask, codes, !L.v_leads, meta);
        codes += xq_strip_words(L.v.rows, L.v.bits);
        meta  += xq_meta_bytes (L.v.rows, L.v.meta);
    }
}

void xq_seal_tiles(const xq_cpu_kernels & kern, const xq_layer_view & L, const int32_t * table, int ith, int nth) {
    const int32_t * list = table + table[2];
    const int n_work = table[3] * L.n_head_kv;
    for (int i = ith; i < n_work; i += nth) {
        const int32_t * e = list + (size_t) (i / L.n_head_kv) * XQ_SEAL_INTS;
        seal_head(kern, L, e[0], e[1], e[2], i % L.n_head_kv, (uint32_t) e[3]);
    }
}
