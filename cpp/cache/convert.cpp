#include "cache/convert.h"

#include "cache/cache.h"
#include "kernels/cpu/attend.h"
#include "reference/reference.h"

#include "ggml-backend.h"

#include <algorithm>

namespace {

uint16_t to_f16(float x) { return ggml_fp32_to_fp16(xq_f16_range(x)); }

// One tile and one page of one stream as a layer that kernels take.
xq_layer_view view_of(const xq_node_layer & l, const xq_tile_rows & rows, xq_tile_codes & codes) {
    xq_layer_view v{};
    v.dk = l.dk; v.dv = l.dv; v.n_head_kv = l.n_head_kv;
    v.k = l.k; v.v = l.v;
    v.k_row = (size_t) l.n_head_kv*l.dk; v.v_row = (size_t) l.n_head_kv*l.dv;
    v.k_leads = l.k_leads; v.v_leads = l.v_leads;
    v.k_pages = const_cast<uint16_t *>(rows.k.data()); // sealing only reads them
    v.v_pages = const_cast<uint16_t *>(rows.v.data());
    v.k_codes = codes.k.data(); v.v_codes = codes.v.data();
    v.k_meta = codes.k_meta.data(); v.v_meta = codes.v_meta.data();
    return v;
}

// Where the bytes of a tile or page lie: f(tensor, offset, host vector) for each run.
template <class Codes, class F> void for_codes(const xq_layer & l, uint32_t stream, int tile, Codes & c, F && f) {
    const auto run = [&](ggml_tensor * t, size_t base, auto & v) {
        f(t, stream*t->nb[1] + base + tile*v.size()*sizeof(v[0]), v);
    };
    run(l.planes.k_codes, 0, c.k);
    run(l.planes.v_codes, 0, c.v);
    run(l.planes.meta, 0, c.k_meta);
    run(l.planes.meta, l.k_meta_size(), c.v_meta);
}

template <class Rows, class F> void for_rows(const xq_layer & l, uint32_t stream, int page, Rows & r, F && f) {
    const auto run = [&](ggml_tensor * t, auto & v) { f(t, stream*t->nb[2] + (size_t) page*XQ_TILE*t->nb[1], v); };
    run(l.planes.k_pages, r.k);
    run(l.planes.v_pages, r.v);
}

template <class V> void get(ggml_tensor * t, size_t at, V & v) {
    ggml_backend_tensor_get(t, v.data(), at, v.size()*sizeof(v[0]));
}
template <class V> void set(ggml_tensor * t, size_t at, const V & v) {
    ggml_backend_tensor_set(t, v.data(), at, v.size()*sizeof(v[0]));
}

} // namespace

xq_tile_rows xq_empty_rows(const xq_node_layer & l) {
    const size_t n = (size_t) XQ_TILE*l.n_head_kv;
    return {std::vector<uint16_t>(n*l.dk), std::vector<uint16_t>(n*l.dv)};
}

xq_tile_codes xq_empty_codes(const xq_node_layer & l) {
    const size_t heads = l.n_head_kv;
    return {std::vector<uint32_t>(heads*xq_head_words(l.k)), std::vector<uint32_t>(heads*xq_head_words(l.v)),
            std::vector<uint8_t>(heads*xq_head_meta_bytes(l.k)), std::vector<uint8_t>(heads*xq_head_meta_bytes(l.v))};
}

xq_tile_rows xq_read_back(const xq_node_layer & l, const xq_tile_codes & codes) {
    xq_tile_rows rows = xq_empty_rows(l);
    float x[XQ_MAX_ROWS*XQ_LANES];
    for (int head = 0; head < l.n_head_kv; ++head) {
        for (int g = 0; g < l.k.strips; ++g) {
            const uint32_t * k = codes.k.data() + (size_t) head*xq_head_words(l.k) + (size_t) g*xq_side_words(l.k);
            const uint8_t * meta = codes.k_meta.data() + (size_t) head*xq_head_meta_bytes(l.k) + xq_meta_at(l.k, g);
            xq_ref_unpack_strip(l.k, k, meta, x);
            const int first = g*l.k.rows, n = std::min(l.k.rows, l.dk - first);
            for (int t = 0; t < XQ_TILE; ++t) {
                for (int i = 0; i < n; ++i) {
                    rows.k[((size_t) t*l.n_head_kv + head)*l.dk + first + i] = to_f16(x[i*XQ_LANES + t]);
                }
            }
        }
        for (int g = 0; g < l.v.strips; ++g) {
            const uint32_t * v = codes.v.data() + (size_t) head*xq_head_words(l.v) + (size_t) g*xq_side_words(l.v);
            const uint8_t  * meta = codes.v_meta.data() + (size_t) head*xq_head_meta_bytes(l.v) + xq_meta_at(l.v, g);
            xq_ref_unpack_strip(l.v, v, meta, x);
            const int lanes = g + 1 < l.v.strips ? XQ_LANES : l.v.lanes_last;
            for (int t = 0; t < XQ_TILE; ++t) {
                uint16_t * row = &rows.v[((size_t) t*l.n_head_kv + head)*l.dv + (size_t) g*XQ_LANES];
                std::transform(x + t*XQ_LANES, x + t*XQ_LANES + lanes, row, to_f16);
            }
        }
    }
    return rows;
}

void xq_seal_rows(const xq_node_layer & l, const xq_tile_rows & rows, uint32_t cells, xq_tile_codes & codes) {
    const int at = xq_table_seals_at(0, 1, 1);
    std::vector<int32_t> table(at + XQ_SEAL_INTS, 0); // stream 0, tile 0, page 0
    table[1] = 1;
    table[2] = at;
    table[3] = 1;
    table[at + 3] = (int32_t) cells;
    xq_seal_tiles(xq_cpu(), view_of(l, rows, codes), table.data(), 0, 1);
}

xq_tile_codes xq_get_codes(const xq_layer & l, uint32_t stream, int tile) {
    xq_tile_codes codes = xq_empty_codes(l.node);
    for_codes(l, stream, tile, codes, [](ggml_tensor * t, size_t at, auto & v) { get(t, at, v); });
    return codes;
}

void xq_set_codes(const xq_layer & l, uint32_t stream, int tile, const xq_tile_codes & codes) {
    for_codes(l, stream, tile, codes, [&](ggml_tensor * t, size_t at, const auto & v) {
        const bool is_leaders = (t == l.planes.k_codes && !l.owns_k()) || (t == l.planes.v_codes && !l.owns_v());
        if (!is_leaders) {
            set(t, at, v);
        }
    });
}

xq_tile_rows xq_get_page(const xq_layer & l, uint32_t stream, int page) {
    xq_tile_rows rows = xq_empty_rows(l.node);
    for_rows(l, stream, page, rows, [](ggml_tensor * t, size_t at, auto & v) { get(t, at, v); });
    return rows;
}

void xq_set_page(const xq_layer & l, uint32_t stream, int page, const xq_tile_rows & rows) {
    for_rows(l, stream, page, rows, [](ggml_tensor * t, size_t at, const auto & v) { set(t, at, v); });
}

void xq_read_back_tile(const xq_layers & layers, uint32_t stream, int tile, int page) {
    for (const auto & l : layers) {
        xq_set_page(l, stream, page, xq_read_back(l.node, xq_get_codes(l, stream, tile)));
    }
}

void xq_seal_tile(const xq_layers & layers, uint32_t stream, const xq_seal & seal) {
    for (const auto & l : layers) {
        xq_tile_codes codes = xq_get_codes(l, stream, seal.tile); // a leader's, sealed just before
        xq_seal_rows(l.node, xq_get_page(l, stream, seal.page), seal.cells, codes);
        xq_set_codes(l, stream, seal.tile, codes);
    }
}
