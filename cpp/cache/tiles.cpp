#include "cache/tiles.h"

#include "format/xq_table.h"

#include <algorithm>

int xq_tile_rules::pages(int n_tiles) const {
    const auto up = [](int n) { return (n + XQ_TILE - 1) / XQ_TILE; };
    return std::min(n_tiles, fresh(max_ubatch) + n_seq*(up(window) + 1 + up(sink)));
}

// The newest tiles have the pages, those of sinks apart. All but the one that is being filled lie whole below its first
// token; a query needs the pages of the window before it.
int xq_tile_rules::reach() const {
    const int sinks = (sink + XQ_TILE - 1)/XQ_TILE;
    return (pages(1 << 24) - sinks - 1)*XQ_TILE - window;
}

// Tokens fill empty tiles in order, but may start and end inside one.
int xq_tile_rules::fresh(int n_tokens) { return (n_tokens + XQ_TILE - 1)/XQ_TILE + 2; }

uint32_t xq_tile_rules::ring_cells(uint32_t n_swa, uint32_t n_ubatch) {
    const auto up = [](uint32_t n, uint32_t step) { return (n + step - 1)/step*step; };
    return up(up(n_swa, XQ_TILE) + up(n_ubatch, XQ_TILE) + XQ_TILE, 256); // as llama.cpp rounds them
}

xq_tiles::xq_tiles(const xq_tile_rules & rules, uint32_t n_cells)
    : rules(rules), tiles((n_cells + XQ_TILE - 1) / XQ_TILE), before(tiles.size()), pages_total(rules.pages((int) tiles.size())) {
    forget();
}

void xq_tiles::forget() {
    std::fill(tiles.begin(), tiles.end(), tile_state{});
    free_pages.clear();
    free_pages.reserve(pages_total); // giving one back never fails
    for (int p = pages_total - 1; p >= 0; --p) {
        free_pages.push_back(p);
    }
    seal_list.clear();
    pending = false;
}

bool xq_tiles::in_use(const llama_kv_cells & cells, int tile) const {
    const uint32_t end = std::min<uint32_t>(cells.size(), (tile + 1)*XQ_TILE);
    for (uint32_t i = tile*XQ_TILE; i < end; ++i) {
        if (!cells.is_empty(i)) {
            return true;
        }
    }
    return false;
}

bool xq_tiles::visible(const llama_kv_cells & cells, uint32_t cell, int next) const {
    if (cells.is_empty(cell)) {
        return false;
    }
    for (llama_seq_id s = 0, left = rules.is_ring() ? cells.seq_count(cell) : 0; left > 0; ++s) {
        if (cells.seq_has(cell, s)) {
            --left;
            const llama_pos query = cells.seq_pos_max(s) + next;
            if (!llama_hparams::is_masked_swa(rules.n_swa, rules.swa, cells.pos_get(cell), query)) {
                return true;
            }
        }
    }
    return !rules.is_ring();
}

bool xq_tiles::is_open(const llama_kv_cells & cells, int tile) const {
    const uint32_t end = std::min<uint32_t>(cells.size(), (tile + 1)*XQ_TILE);
    for (uint32_t i = tile*XQ_TILE; i < end; ++i) {
        if (visible(cells, i, 1)) {
            return false;
        }
    }
    return true;
}

uint32_t xq_tiles::search_from(const llama_kv_cells & cells, uint32_t head) const {
    llama_pos newest = -1;
    for (uint32_t i = 0; rules.is_ring() && i < cells.size(); ++i) {
        if (!cells.is_empty(i) && cells.pos_get(i) >= newest) {
            newest = cells.pos_get(i);
            head   = i + 1;
        }
    }
    return head;
}

std::vector<uint32_t> xq_tiles::outdated(const llama_kv_cells & cells, const std::vector<uint32_t> & idxs) const {
    std::vector<uint32_t> list;
    llama_pos last = -1;
    for (const uint32_t cell : idxs) {
        const tile_state & s = tiles[cell / XQ_TILE];
        const uint32_t first = cell/XQ_TILE*XQ_TILE, end = std::min<uint32_t>(cells.size(), first + XQ_TILE);
        const bool lost = !cells.is_empty(cell) || (s.sealed && s.page < 0); // its rows, or all codes of its tile
        for (uint32_t i = first; lost && i < end; ++i) {
            last = cells.is_empty(i) ? last : std::max(last, cells.pos_get(i));
        }
    }
    for (uint32_t i = 0; last >= 0 && i < cells.size(); ++i) {
        if (!cells.is_empty(i) && cells.pos_get(i) <= last) {
            list.push_back(i);
        }
    }
    return list;
}

uint32_t xq_tiles::data_mask(const llama_kv_cells & cells, int tile) const {
    const uint32_t first = tile*XQ_TILE, end = std::min<uint32_t>(cells.size(), first + XQ_TILE);
    uint32_t mask = 0;
    for (uint32_t i = first; i < end; ++i) {
        mask |= (uint32_t) !cells.is_empty(i) << (i - first);
    }
    return mask;
}

// A page counts as one to give while its tile is sealed; a batch that fills the tile's holes takes it back. So the
// holes of such tiles are offered, newest tile first, only as far as the reserve for the micro-batch stays whole.
bool xq_tiles::writable(const llama_kv_cells & cells, uint32_t cell) const {
    const int tile = (int) (cell / XQ_TILE);
    const bool empty = cells.is_empty(cell);
    if (empty && !tiles[tile].sealed) {
        return true;
    }
    if ((empty || rules.is_ring()) && is_open(cells, tile)) {
        return true;
    }
    if (!empty) {
        return false;
    }
    if (tiles[tile].page < 0) {
        return false;
    }
    if (pages_total == n_tiles()) {
        return true;
    }
    int spare = pages_total - reserve(cells, rules.max_ubatch);
    for (int t = 0; t < n_tiles(); ++t) {
        const tile_state & s = tiles[t];
        if (s.page < 0 || !in_use(cells, t)) {
            continue;
        }
        const bool newer = s.age > tiles[tile].age || (s.age == tiles[tile].age && t > tile);
        spare -= !s.sealed || (newer && data_mask(cells, t) != 0xFFFFFFFFu);
    }
    return spare > 0;
}

int xq_tiles::from(int tile) const { return tiles[tile].sealed ? tiles[tile].from : XQ_NOT_SEALED; }

int xq_tiles::row(uint32_t cell) const {
    return tiles[cell / XQ_TILE].page*XQ_TILE + (int) (cell % XQ_TILE);
}

// A tile stays in full precision while any of its cells is among the newest `window` tokens of its sequence, or
// is a sink.
bool xq_tiles::protected_by_rules(const llama_kv_cells & cells, int tile) const {
    const uint32_t end = std::min<uint32_t>(cells.size(), (tile + 1)*XQ_TILE);
    for (uint32_t i = tile*XQ_TILE; i < end; ++i) {
        if (cells.is_empty(i)) {
            continue;
        }
        const llama_pos pos = cells.pos_get(i);
        if (pos < rules.sink) {
            return true;
        }
        for (llama_seq_id s = 0, left = cells.seq_count(i); left > 0; ++s) {
            if (cells.seq_has(i, s)) {
                --left;
                if (pos > cells.seq_pos_max(s) - rules.window) {
                    return true;
                }
            }
        }
    }
    return false;
}

// Sequence operations empty cells behind our back; a tile without data gives up its codes and its page.
void xq_tiles::drop_empty(const llama_kv_cells & cells) {
    for (int t = 0; t < n_tiles(); ++t) {
        tile_state & s = tiles[t];
        if ((s.sealed || s.page >= 0) && !in_use(cells, t)) {
            if (s.page >= 0) {
                free_pages.push_back(s.page);
            }
            s = tile_state{};
        }
    }
}

// A free page, or the backup of the tile that was sealed longest ago.
int xq_tiles::take_page(uint32_t now) {
    if (!free_pages.empty()) {
        const int page = free_pages.back();
        free_pages.pop_back();
        return page;
    }
    tile_state * oldest = nullptr;
    for (tile_state & s : tiles) {
        if (s.sealed && s.page >= 0 && s.age != now && (!oldest || s.age < oldest->age)) {
            oldest = &s;
        }
    }
    if (!oldest) {
        return -1;
    }
    const int page = oldest->page;
    oldest->page = -1;
    return page;
}

int32_t xq_tiles::from_of(const llama_kv_cells & cells, int tile) const {
    int32_t newest = 0;
    const uint32_t first = tile*XQ_TILE, end = std::min<uint32_t>(cells.size(), first + XQ_TILE);
    for (uint32_t i = first; i < end; ++i) {
        if (!cells.is_empty(i)) {
            newest = std::max(newest, cells.pos_get(i));
        }
    }
    return newest + rules.window;
}

void xq_tiles::seal(const llama_kv_cells & cells, int tile) {
    tile_state & s = tiles[tile];
    s.sealed = true;
    s.from   = from_of(cells, tile);
    seal_list.push_back({tile, s.page, data_mask(cells, tile)});
}

int xq_tiles::pages_to_give(const llama_kv_cells & cells) const {
    int n = (int) free_pages.size();
    for (int t = 0; t < n_tiles(); ++t) {
        n += tiles[t].page >= 0 && (tiles[t].sealed || !in_use(cells, t));
    }
    return n;
}

// Pages that tokens may need beside those of the holes that are offered to them: no more than there are empty tiles.
int xq_tiles::reserve(const llama_kv_cells & cells, int n_tokens) const {
    if (pages_total == n_tiles()) {
        return 0;
    }
    const int most = xq_tile_rules::fresh(n_tokens);
    int n = 0;
    for (int t = 0; t < n_tiles() && n < most; ++t) {
        n += is_open(cells, t);
    }
    return n;
}

int xq_tiles::spare_pages(const llama_kv_cells & cells) const {
    return pages_to_give(cells) - reserve(cells, rules.max_ubatch);
}

bool xq_tiles::has_room(const llama_kv_cells & cells, int n_tokens) const {
    return pages_to_give(cells) >= reserve(cells, n_tokens);
}

// Leave free or reclaimable pages for the next micro-batch. The rules hold enough for ordinary use; when tiles
// with holes hog pages, the oldest are sealed early, those under the rules last.
void xq_tiles::keep_reserve(const llama_kv_cells & cells, uint32_t now) {
    if (pages_total < n_tiles()) { // with a page for every tile nothing ever has to give way
        make_pages(cells, now, -spare_pages(cells));
    }
}

void xq_tiles::make_pages(const llama_kv_cells & cells, uint32_t now, int missing) {
    std::vector<std::pair<std::pair<int, uint32_t>, int>> order;
    for (int t = 0; t < n_tiles(); ++t) {
        if (tiles[t].page >= 0 && !tiles[t].sealed) {
            const int rank = tiles[t].age == now ? 2 : (protected_by_rules(cells, t) ? 1 : 0);
            order.push_back({{rank, tiles[t].age}, t});
        }
    }
    std::sort(order.begin(), order.end());
    for (size_t i = 0; i < order.size() && missing > 0; ++i, --missing) {
        seal(cells, order[i].second);
    }
}

void xq_tiles::place(const llama_kv_cells & cells, const std::vector<uint32_t> & idxs) {
    const uint32_t now = ++clock;
    seal_list.clear();
    drop_empty(cells);
    before  = tiles;
    pending = true;

    // Mark before giving pages, so that no tile of this batch loses its backup to another one.
    for (const uint32_t i : idxs) {
        tiles[i / XQ_TILE].age = now;
    }
    for (const uint32_t i : idxs) {
        tile_state & s = tiles[i / XQ_TILE];
        if (s.sealed && s.page < 0) {
            s = tile_state{}; // was empty before this batch, or of a ring: writable() lets nothing else through
            s.age = now;
        }
        s.sealed = false;
        if (s.page < 0) {
            s.page = take_page(now);
        }
    }

    for (int t = 0; t < n_tiles(); ++t) {
        const tile_state & s = tiles[t];
        if (s.page >= 0 && !s.sealed && data_mask(cells, t) == 0xFFFFFFFFu && !protected_by_rules(cells, t)) {
            seal(cells, t);
        }
    }
    keep_reserve(cells, now);
}

void xq_tiles::undo() {
    if (!pending) {
        return;
    }
    pending = false;
    for (int t = 0; t < n_tiles(); ++t) {
        tile_state & s = tiles[t], was = before[t];
        if (was.page < 0 && s.page >= 0) { // was empty: a tile of the batch
            free_pages.push_back(s.page);
        } else if (was.page != s.page) {
            was.page = -1; // its page went to a tile of the batch, and has been written
        }
        s = was;
    }
    for (const xq_seal & e : seal_list) {
        tiles[e.tile].sealed = false; // also one that had codes: some layers may have new ones
    }
    seal_list.clear();
}

void xq_tiles::restore_sealed(const llama_kv_cells & cells, int tile) {
    tiles[tile] = tile_state{};
    tiles[tile].sealed = true;
    tiles[tile].from   = from_of(cells, tile);
    tiles[tile].age    = ++clock;
}

std::vector<xq_seal> xq_tiles::give_way(const llama_kv_cells & cells) {
    std::vector<xq_seal> list;
    seal_list.clear();
    make_pages(cells, ++clock, 1);
    list.swap(seal_list); // the next graph has nothing to do with them
    return list;
}

std::vector<xq_seal> xq_tiles::settle(const llama_kv_cells & cells) {
    std::vector<xq_seal> list;
    seal_list.clear();
    drop_empty(cells);
    keep_reserve(cells, clock); // what was written last gives way last: it may be filled next
    list.swap(seal_list);
    return list;
}

int xq_tiles::restore_residual(int tile) {
    tiles[tile] = tile_state{};
    tiles[tile].age = ++clock;
    tiles[tile].page = take_page(clock);
    return tiles[tile].page;
}

int xq_tiles::count_sealed() const {
    return (int) std::count_if(tiles.begin(), tiles.end(), [](const tile_state & s) { return s.sealed; });
}

int xq_tiles::count_residual() const {
    return (int) std::count_if(tiles.begin(), tiles.end(), [](const tile_state & s) { return s.page >= 0 && !s.sealed; });
}
