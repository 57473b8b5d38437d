// Tiles between their two forms on the host, for tensors of any backend: for what happens outside a graph, such as
// restoring a session. Codes and rows of one tile of one layer, all heads; the layouts are the planes' and pages' own.
#pragma once

#include "cache/tiles.h"
#include "graph/node.h"

#include <cstdint>
#include <vector>

struct xq_layer;
using xq_layers = std::vector<xq_layer>;

// What a tile's page holds: f16 rows, values rotated where the layer rotates them.
struct xq_tile_rows {
    std::vector<uint16_t> k, v; // [32][n_head_kv*dk], [32][n_head_kv*dv]
};

// What its planes hold. A follower's codes are its leader's.
struct xq_tile_codes {
    std::vector<uint32_t> k, v;
    std::vector<uint8_t>  k_meta, v_meta;
};

// Of the layer's sizes, all zero.
xq_tile_rows  xq_empty_rows (const xq_node_layer & layer);
xq_tile_codes xq_empty_codes(const xq_node_layer & layer);

// Codes to rows: x = zero + scale*code of the reference, rounded to f16. Cells without data are 0 in values and of no
// meaning in keys.
xq_tile_rows xq_read_back(const xq_node_layer & layer, const xq_tile_codes & codes);

// Rows to codes, with the kernels and thus the bytes of a graph on the CPU. Bit set in `cells`: the row holds data. A
// follower finds its leader's codes in `codes` and writes metadata only.
void xq_seal_rows(const xq_node_layer & layer, const xq_tile_rows & rows, uint32_t cells, xq_tile_codes & codes);

// Out of the layer's tensors and into them; setting a follower's tile leaves its leader's codes alone.
xq_tile_codes xq_get_codes(const xq_layer & layer, uint32_t stream, int tile);
void          xq_set_codes(const xq_layer & layer, uint32_t stream, int tile, const xq_tile_codes & codes);
xq_tile_rows  xq_get_page (const xq_layer & layer, uint32_t stream, int page);
void          xq_set_page (const xq_layer & layer, uint32_t stream, int page, const xq_tile_rows & rows);

// A tile's codes to a page, a page to its tile's codes, in all layers of a cache: a leader comes before its followers.
void xq_read_back_tile(const xq_layers & layers, uint32_t stream, int tile, int page);
void xq_seal_tile     (const xq_layers & layers, uint32_t stream, const xq_seal & seal);
