#include "kernels/cpu/attend.h"

#include "ggml.h"

#include <algorithm>

// Keys: the page transposed, strip by strip, so that a row is a channel; zeros behind the last one.
static void seal_keys(const xq_cpu_kernels & kern, const xq_layer_view & L, int stream, int tile, int page, int head, uint32_t mask) {
    alignas(32) float x[XQ_MAX_ROWS * XQ_LANES];
    for (int g = 0; g < L.k.strips; ++g) {
        const int first = g*L.k.rows, n = std::min(L.k.rows, L.dk - first);
        kern.transpose_f16(L.k_page(stream, page, head) + first, L.k_row, n, x);
        std::fill(x + n*XQ_LANES, x + L.k.rows*XQ_LANES, 0.0f);
        kern.seal_strip(L.k, x, nullptr, mask, L.k_tile(stream, tile, head) + (size_t) g*xq_side_words(L.k), !L.k_leads,
                        L.k_tile_meta(stream, tile, head) + xq_meta_at(L.k, g));
    }
}

// Values: 32 channels at a time, so that a row is a token; 64 where two strips share a scale.
static void seal_values(const xq_cpu_kernels & kern, const xq_layer_view & L, int stream, int tile, int page, int head, uint32_t mask) {
    alignas(32) float x[2 * XQ_TILE * XQ_LANES];
    uint8_t present[XQ_TILE];
    for (int t = 0; t < XQ_TILE; ++t) {
        present[t] = mask >> t & 1;
    }
    const uint8_t  * row_ok = mask == 0xFFFFFFFFu ? nullptr : present;
    const uint16_t * rows = L.v_page(stream, page, head);
    const int step = L.v.meta == XQ_META_LOG8 ? 2 : 1;
    for (int g = 0; g < L.v.strips; g += step) {
        const int n = g + step <= L.v.strips ? step : 1;
        for (int s = 0; s < n; ++s) {
            const int valid = g + s + 1 < L.v.strips ? XQ_LANES : L.v.lanes_last;
            for (int t = 0; t < XQ_TILE; ++t) {
                for (int l = 0; l < XQ_LANES; ++l) {
                    x[(s*XQ_TILE + t)*XQ_LANES + l] = l < valid ? ggml_fp16_to_fp32(rows[t*L.v_row + (g + s)*XQ_LANES + l]) : 0.0f;
                }
            }
        }
        const int lanes = g + n < L.v.strips ? XQ_LANES : L.v.lanes_last;
        uint32_t * codes = L.v_tile(stream, tile, head) + (size_t) g*xq_side_words(L.v);
        uint8_t  * meta  = L.v_tile_meta(stream, tile, head) + xq_meta_at(L.v, g);
        if (L.v.meta == XQ_META_LOG8) {
            kern.seal_unbiased(L.v, x, n, lanes, row_ok, codes, meta);
        } else {
            const uint32_t lane_mask = lanes == XQ_LANES ? 0xFFFFFFFFu : (1u << lanes) - 1u;
            kern.seal_strip(L.v, x, row_ok, lane_mask, codes, !L.v_leads, meta);
        }
    }
}

static void seal_tile(const xq_cpu_kernels & kern, const xq_layer_view & L, const int32_t * e, int head) {
    seal_keys  (kern, L, e[0], e[1], e[2], head, (uint32_t) e[3]);
    seal_values(kern, L, e[0], e[1], e[2], head, (uint32_t) e[3]);
}

void xq_seal_tiles(const xq_cpu_kernels & kern, const xq_layer_view & L, const int32_t * table, int ith, int nth) {
    const int32_t * list = table + table[2];
    for (int i = ith; i < table[3]*L.n_head_kv; i += nth) {
        seal_tile(kern, L, list + (size_t) (i / L.n_head_kv)*XQ_SEAL_INTS, i % L.n_head_kv);
    }
}

void xq_seal_head(const xq_cpu_kernels & kern, const xq_layer_view & L, const int32_t * table, int head) {
    const int32_t * list = table + table[2];
    for (int i = 0; i < table[3]; ++i) {
        seal_tile(kern, L, list + (size_t) i*XQ_SEAL_INTS, head);
    }
}
