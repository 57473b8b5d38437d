// One tile of a saved state: the cells that belong to it and their keys and values, as codes or as page rows. Nothing
// of another cell is in it, but for the scales that all cells of a sealed tile share.
#pragma once

#include "cache/cache.h"
#include "cache/convert.h"
#include "cache/section.h"

#include "llama-kv-cells.h"

#include <cstdint>
#include <vector>

struct xq_saved_cell {
    int32_t pos = 0;
    llama_kv_cell_ext ext;
    std::vector<int32_t> seqs; // empty in a state of one sequence
};

struct xq_saved_tile {
    uint32_t stream = 0, tile = 0; // where it lay; 0 in a state of one sequence
    uint32_t cells  = 0;           // bit set: the state has this cell
    uint32_t sealed = 0;
    std::vector<xq_saved_cell> of; // of the cells in `cells`, in their order
    std::vector<xq_tile_codes> codes; // by layer, if sealed; a follower's planes of codes are empty
    std::vector<xq_tile_rows>  rows;  // by layer, if not

    int count() const { return (int) of.size(); }
};

using xq_saved_tiles = std::vector<xq_saved_tile>;

void xq_sort_by_position(xq_saved_tiles & tiles);

void xq_put_tile(xq_section_writer & out, const xq_layers & layers, xq_saved_tile & tile, bool whole);
// Throws std::runtime_error if the bytes describe no tile. whole: cells name their sequences, below n_seq_max.
xq_saved_tile xq_take_tile(xq_section_reader & in, const xq_layers & layers, bool whole, uint32_t n_seq_max);

// No section of a tile is longer.
size_t xq_saved_tile_limit(const xq_layers & layers);

// Rows of one layer, read back if the tile is sealed.
xq_tile_rows xq_rows_of(const xq_layers & layers, const xq_saved_tile & tile, size_t layer);

// The same cells in as few tiles as hold them, as rows, ordered by position.
xq_saved_tiles xq_merge_tiles(const xq_layers & layers, const xq_saved_tiles & tiles);
