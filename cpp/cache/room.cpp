// Room inside the cache. Cells of a tile that is sealed and has no page stay unused until the tile is empty, and a tile
// that has one may be sealed with its holes while a batch is placed. Where a batch finds no cells for that, or a state no
// empty tiles, tiles with holes are merged: rows stay what they are, codes become rows and are coded a second time once
// they are older than the window.
#include "cache/cache.h"

#include "cache/saved_tile.h"

#include <algorithm>
#include <iterator>
#include <utility>

// The tiles that have holes, with what they hold, taken out of the cells.
xq_saved_tiles xq_cache::take_sparse(llama_kv_cells & cells, uint32_t stream) {
    xq_tiles & of = tiles[stream];
    xq_saved_tiles sparse;
    for (auto & t : tiles_to_save(cells, -1, stream)) {
        if (t.count() == XQ_TILE) {
            continue;
        }
        for (const auto & l : layers) {
            if (t.sealed) {
                t.codes.push_back(xq_get_codes(l, stream, (int) t.tile));
            } else {
                t.rows.push_back(xq_get_page(l, stream, of.page((int) t.tile)));
            }
        }
        for (int c = 0; c < XQ_TILE; ++c) {
            if (t.cells >> c & 1) {
                cells.rm(t.tile*XQ_TILE + c);
            }
        }
        sparse.push_back(std::move(t));
    }
    of.drop_empty(cells);
    return sparse;
}

// A ring that has no cells for a micro-batch: what no later token sees is removed, so that tiles with the rest have
// holes.
bool xq_cache::forget_unseen(llama_kv_cells & cells, uint32_t stream) {
    const xq_tiles & of = tiles[stream];
    uint32_t usable = 0;
    std::vector<uint32_t> unseen;
    for (uint32_t i = 0; i < cells.size(); ++i) {
        usable += of.writable(cells, i);
        if (!cells.is_empty(i) && !of.visible(cells, i, 1)) {
            unseen.push_back(i);
        }
    }
    if (usable >= micro_batch) {
        return false;
    }
    for (const uint32_t i : unseen) {
        cells.rm(i);
    }
    return true;
}

// Afterwards one tile at most has holes and a page, and lies before all empty ones, for a search from the first cell to fill
// at once: sealed with its holes while the batch is placed, it would take their room away again.
bool xq_cache::make_room(llama_kv_cells & cells, uint32_t stream) {
    const bool short_of_pages = tiles[stream].spare_pages(cells) < 0;
    if (short_of_pages) {
        settle(stream, cells);
    }
    if (tiles[stream].is_ring() && !forget_unseen(cells, stream)) {
        return short_of_pages;
    }
    const xq_saved_tiles sparse = take_sparse(cells, stream);
    if (sparse.empty()) {
        return short_of_pages;
    }
    const xq_saved_tiles merged = xq_merge_tiles(layers, sparse);
    std::vector<int> at; // the first empty tiles; the last of these, and newest by position, has the holes
    for (int t = 0; at.size() < merged.size(); ++t) {
        if (!tiles[stream].in_use(cells, t)) {
            at.push_back(t);
        }
    }
    std::rotate(at.begin(), at.begin() + 1, at.end());
    put(merged, at, cells, -1, stream);
    return true;
}

bool xq_cache::join_sparse(xq_saved_tiles & list, llama_kv_cells & cells, int seq_id, uint32_t stream) {
    int tokens = 0;
    for (const auto & t : list) {
        tokens += t.count();
    }
    int empty = 0;
    for (int t = 0; t < (int) cells.size()/XQ_TILE; ++t) {
        empty += !tiles[stream].in_use(cells, t);
    }
    if (tokens <= empty*XQ_TILE || tokens > (int) (cells.size() - cells.get_used())) {
        return false;
    }
    for (auto & t : list) {
        for (auto & cell : t.of) {
            cell.seqs = {seq_id};
        }
    }
    xq_saved_tiles sparse = take_sparse(cells, stream);
    list.insert(list.end(), std::make_move_iterator(sparse.begin()), std::make_move_iterator(sparse.end()));
    list = xq_merge_tiles(layers, list);
    return true;
}
