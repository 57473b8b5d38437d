// Room inside the cache. Cells of a tile that is sealed and has no page stay unused until the tile is empty. Where a batch
// finds no cells for that, tiles with holes are merged: rows stay what they are, codes become rows and are coded a second
// time once they are older than the window.
#include "cache/cache.h"

#include "cache/saved_tile.h"

#include <utility>

bool xq_cache::make_room(llama_kv_cells & cells, uint32_t stream) {
    xq_tiles & of = tiles[stream];
    xq_saved_tiles sparse;
    bool unused = false;
    for (auto & t : tiles_to_save(cells, -1, stream)) {
        if (t.count() < XQ_TILE) {
            unused = unused || of.sealed((int) t.tile);
            sparse.push_back(std::move(t));
        }
    }
    if (!unused) {
        return false;
    }
    for (auto & t : sparse) {
        for (const auto & l : layers) {
            if (t.sealed) {
                t.codes.push_back(xq_get_codes(l, stream, (int) t.tile));
            } else {
                t.rows.push_back(xq_get_page(l, stream, of.page((int) t.tile)));
            }
        }
    }
    const xq_saved_tiles dense = xq_merge_tiles(layers, sparse); // by position: the one that is not full is the newest
    std::vector<int> at;
    for (const auto & t : sparse) {
        at.push_back((int) t.tile);
        for (int c = 0; c < XQ_TILE; ++c) {
            if (t.cells >> c & 1) {
                cells.rm(t.tile*XQ_TILE + c);
            }
        }
    }
    of.drop_empty(cells);
    put(dense, at, cells, -1, stream);
    return true;
}
