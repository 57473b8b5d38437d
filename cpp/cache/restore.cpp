// Where the tiles of a restored state go: into empty tiles, as they were saved. If they are more than there is room
// for, or than their sequence's share of the tiles, sparse ones are merged. Rows stay what they are by that; codes
// become rows, and are coded again once their tile is older than the window.
#include "cache/cache.h"

#include "cache/saved_tile.h"

#include <algorithm>
#include <iterator>
#include <stdexcept>
#include <utility>

namespace {

int tiles_for(int n_tokens) { return (n_tokens + XQ_TILE - 1)/XQ_TILE; }

int tokens_of(const xq_saved_tiles & list) {
    int n = 0;
    for (const auto & t : list) {
        n += t.count();
    }
    return n;
}

// The tiles that `which` picks, merged.
template <class F> void merge_some(const xq_layers & layers, xq_saved_tiles & list, F && which) {
    const auto rest = std::stable_partition(list.begin(), list.end(), [&](const auto & t) { return !which(t); });
    const xq_saved_tiles some(std::make_move_iterator(rest), std::make_move_iterator(list.end()));
    list.erase(rest, list.end());
    for (auto & t : xq_merge_tiles(layers, some)) {
        list.push_back(std::move(t));
    }
}

// How many cells the tiles to merge have at most, so that `most` are left: the sparsest ones, as few as it takes.
int sparse_enough(const xq_saved_tiles & list, int most) {
    for (int limit = 0; limit < XQ_TILE; ++limit) {
        int kept = 0, tokens = 0;
        for (const auto & t : list) {
            kept   += t.count() > limit;
            tokens += t.count() > limit ? 0 : t.count();
        }
        if (kept + tiles_for(tokens) <= most) {
            return limit;
        }
    }
    return XQ_TILE;
}

} // namespace

// A tile of the stream for every tile of the list, which may be merged for it.
std::vector<int> xq_cache::fit(xq_saved_tiles & list, const llama_kv_cells & cells, bool whole, uint32_t stream) const {
    std::vector<int> empty, at;
    for (int t = 0; t < (int) cells.size()/XQ_TILE; ++t) {
        if (!tiles[stream].in_use(cells, t)) {
            empty.push_back(t);
        }
    }
    // A whole context goes back to where it was, if it fits: sums are made in the order of tiles.
    for (const auto & t : list) {
        if (whole && t.tile < empty.size() && (at.empty() || (int) t.tile > at.back())) {
            at.push_back((int) t.tile);
        }
    }
    if (at.size() == list.size()) {
        return at;
    }
    const int dense = tiles_for(tokens_of(list));
    if (dense > (int) empty.size()) {
        throw std::runtime_error("it needs " + std::to_string(dense) + " empty tiles of " + std::to_string(XQ_TILE) +
                                 " tokens and this context has " + std::to_string(empty.size()));
    }
    const int share = tiles[stream].n_tiles()/(n_stream == 1 && !whole ? (int) n_seq_max : 1);
    const int most  = std::min((int) empty.size(), std::max(dense, share));
    const int n_rows = (int) std::count_if(list.begin(), list.end(), [](const auto & t) { return !t.sealed; });
    if ((int) list.size() > most || n_rows > tiles[stream].spare_pages(cells)) {
        merge_some(layers, list, [](const auto & t) { return !t.sealed && t.count() < XQ_TILE; }); // exact
    }
    if ((int) list.size() > most) {
        const int limit = sparse_enough(list, most);
        merge_some(layers, list, [limit](const auto & t) { return t.count() <= limit; });
    }
    xq_sort_by_position(list);
    return {empty.begin(), empty.begin() + (long) list.size()};
}

void xq_cache::put(const xq_saved_tiles & list, const std::vector<int> & at, llama_kv_cells & cells, int seq_id,
                   uint32_t stream) {
    xq_tiles & of = tiles[stream];
    for (size_t i = 0; i < list.size(); ++i) {
        auto saved = list[i].of.begin();
        for (int c = 0; c < XQ_TILE; ++c) {
            if (!(list[i].cells >> c & 1)) {
                continue;
            }
            const uint32_t cell = (uint32_t) at[i]*XQ_TILE + c;
            cells.pos_set(cell, saved->pos);
            cells.ext_set(cell, saved->ext);
            for (const int32_t q : seq_id == -1 ? saved->seqs : std::vector<int32_t>{seq_id}) {
                if (!cells.seq_has(cell, q)) {
                    cells.seq_add(cell, q);
                }
            }
            ++saved;
        }
    }
    const auto give_way = [&] {
        const std::vector<xq_seal> seals = of.give_way(cells);
        seal_tiles(stream, seals);
        return !seals.empty();
    };
    for (size_t i = 0; i < list.size(); ++i) {
        int page = -1;
        if (list[i].sealed) {
            of.restore_sealed(cells, at[i]);
        } else {
            // Pages that are missing come from the oldest tiles that have one: these are sealed before their time.
            while ((page = of.restore_residual(at[i])) < 0 && give_way()) {}
            if (page < 0) {
                throw std::runtime_error("it needs more full-precision pages than this context has");
            }
        }
        for (size_t l = 0; l < layers.size(); ++l) {
            if (page < 0) {
                xq_set_codes(layers[l], stream, at[i], list[i].codes[l]);
            } else {
                xq_set_page(layers[l], stream, page, list[i].rows[l]);
            }
        }
    }
    settle(stream, cells);
}
