// One stream of a packed cache without tensors: llama.cpp's cells, our tiles, and a number in place of every
// token's keys and values, so that a test can ask what a query would read.
#pragma once

#include "cache/tiles.h"
#include "format/xq_table.h"

#include "check.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

struct token {
    llama_pos pos;
    std::vector<llama_seq_id> seqs;
};

class stream {
public:
    stream(const xq_tile_rules & rules, uint32_t n_cells)
        : rules(rules), tiles(rules, n_cells), data(n_cells, -1), codes(tiles.n_tiles()*XQ_TILE, -1),
          rows(tiles.n_pages()*XQ_TILE, -1) {
        cells.resize(n_cells);
    }

    // Cells for n tokens, or none: what llama_kv_cache::find_slot does with a packed cache.
    std::vector<uint32_t> find(int n) const {
        std::vector<uint32_t> idxs;
        if (!tiles.has_room(cells, n)) {
            return idxs;
        }
        uint32_t at = tiles.search_from(cells, head > cells.get_used() + 2*n ? 0 : head);
        for (uint32_t tested = 0; tested < cells.size() && (int) idxs.size() < n; ++tested, ++at) {
            at = at >= cells.size() ? 0 : at;
            if (tiles.writable(cells, at)) {
                idxs.push_back(at);
            }
        }
        if ((int) idxs.size() < n) {
            idxs.clear();
        }
        return idxs;
    }

    // A micro-batch: cells, tiles, then what the graph does: store rows, seal. False: no room for it.
    bool put(const std::vector<token> & batch) {
        std::vector<uint32_t> idxs = find((int) batch.size());
        if (idxs.empty() && tiles.spare_pages(cells) < 0) { // as xq_cache::make_room
            seal(tiles.settle(cells));
            idxs = find((int) batch.size());
        }
        if (idxs.empty()) {
            return false;
        }
        if (fails_first) {
            fail(batch);
        }
        tiles.confirm();
        place(batch, idxs);
        for (uint32_t i : idxs) {
            if (tiles.page((int) i/XQ_TILE) >= 0) {
                rows[tiles.row(i)] = data[i];
            }
        }
        seal(tiles.seals());
        for (const token & t : batch) {
            check_readable(t.pos);
        }
        return true;
    }

    // A micro-batch whose graph fails after its rows and codes were spoilt, then what xq_step does. False: no room for it.
    bool fail(const std::vector<token> & batch) {
        const std::vector<uint32_t> idxs = find((int) batch.size());
        if (idxs.empty()) {
            return false;
        }
        const uint32_t head_before = head;
        tiles.confirm();
        place(batch, idxs);
        for (uint32_t i : idxs) {
            rows[tiles.row(i)] = -3;
        }
        for (const xq_seal & e : tiles.seals()) {
            std::fill_n(codes.begin() + e.tile*XQ_TILE, XQ_TILE, -3);
        }
        tiles.undo();
        for (uint32_t i : idxs) {
            cells.rm(i);
        }
        head = head_before;
        seal(tiles.settle(cells));
        CHECK(tiles.has_room(cells, rules.max_ubatch), "no room after a failed batch");
        for (llama_seq_id s = 0; s < rules.n_seq; ++s) {
            check_readable(cells.seq_pos_max(s) + 1);
        }
        return true;
    }

    bool put(llama_seq_id seq, int n) {
        std::vector<token> batch;
        for (int i = 0; i < n; ++i) {
            batch.push_back({cells.seq_pos_max(seq) + 1 + i, {seq}});
        }
        return put(batch);
    }

    void seq_rm(llama_seq_id seq, llama_pos p0, llama_pos p1 = std::numeric_limits<llama_pos>::max()) {
        uint32_t freed = cells.size();
        for (uint32_t i = 0; i < cells.size(); ++i) {
            if (cells.pos_in(i, p0, p1) && cells.seq_has(i, seq) && cells.seq_rm(i, seq)) {
                freed = std::min(freed, i);
            }
        }
        head = freed < cells.size() ? std::min(head, freed) : head;
    }

    void seq_cp(llama_seq_id src, llama_seq_id dst, llama_pos p0, llama_pos p1) {
        for (uint32_t i = 0; i < cells.size(); ++i) {
            if (cells.pos_in(i, p0, p1) && cells.seq_has(i, src) && !cells.seq_has(i, dst)) {
                cells.seq_add(i, dst);
            }
        }
    }

    void seq_keep(llama_seq_id seq) {
        uint32_t freed = cells.size();
        for (uint32_t i = 0; i < cells.size(); ++i) {
            if (cells.seq_keep(i, seq)) {
                freed = std::min(freed, i);
            }
        }
        head = freed < cells.size() ? std::min(head, freed) : head;
    }

    void clear() {
        cells.reset();
        head = 0;
    }

    bool in_use(int tile) const { return mask(tile) != 0; }

    uint32_t mask(int tile) const {
        uint32_t m = 0;
        for (uint32_t c = 0; c < XQ_TILE && tile*XQ_TILE + c < cells.size(); ++c) {
            m |= (uint32_t) !cells.is_empty(tile*XQ_TILE + c) << c;
        }
        return m;
    }

    llama_pos newest(int tile) const {
        llama_pos p = -1;
        for (uint32_t c = 0; c < XQ_TILE && tile*XQ_TILE + c < cells.size(); ++c) {
            const uint32_t i = tile*XQ_TILE + c;
            p = cells.is_empty(i) ? p : std::max(p, cells.pos_get(i));
        }
        return p;
    }

    // Is a cell of the tile a sink, or among the newest `window` tokens of one of its sequences?
    bool is_protected(int tile) const {
        for (uint32_t c = 0; c < XQ_TILE && tile*XQ_TILE + c < cells.size(); ++c) {
            const uint32_t i = tile*XQ_TILE + c;
            if (cells.is_empty(i)) {
                continue;
            }
            if (cells.pos_get(i) < rules.sink) {
                return true;
            }
            for (llama_seq_id s = 0; s < rules.n_seq; ++s) {
                if (cells.seq_has(i, s) && cells.seq_pos_max(s) - cells.pos_get(i) < rules.window) {
                    return true;
                }
            }
        }
        return false;
    }

    int form(int tile, llama_pos pos) const { return xq_tile_read(tiles.page(tile), tiles.from(tile), pos); }

    // Is the token in this cell within a ring's window for a query?
    bool sees(uint32_t cell, llama_pos pos) const {
        return !cells.is_empty(cell) && !llama_hparams::is_masked_swa(rules.n_swa, rules.swa, cells.pos_get(cell), pos);
    }

    // Whatever form a query at this position reads, it finds every token's own data.
    void check_readable(llama_pos pos) const {
        for (uint32_t i = 0; i < cells.size(); ++i) {
            if (!sees(i, pos)) {
                continue;
            }
            const int tile = (int) i/XQ_TILE, how = form(tile, pos);
            CHECK(how != XQ_READ_NONE, "cell", i, "pos", pos);
            if (how == XQ_READ_CODES) {
                CHECK(codes[i] == data[i], "cell", i, "pos", pos);
            } else if (how == XQ_READ_PAGE) {
                CHECK(rows[tiles.row(i)] == data[i], "cell", i, "pos", pos);
            }
        }
    }

    xq_tile_rules rules;
    llama_kv_cells cells;
    xq_tiles tiles;
    uint32_t head = 0;
    bool fails_first = false; // every batch fails once before it succeeds

private:
    void place(const std::vector<token> & batch, const std::vector<uint32_t> & idxs) {
        for (const uint32_t i : tiles.outdated(cells, idxs)) {
            CHECK(!sees(i, batch[0].pos), "a token that is seen is dropped, cell", i);
            cells.rm(i);
        }
        for (size_t i = 0; i < batch.size(); ++i) {
            cells.pos_set(idxs[i], batch[i].pos);
            for (llama_seq_id s : batch[i].seqs) {
                cells.seq_add(idxs[i], s);
            }
            data[idxs[i]] = next_id++;
        }
        head = idxs.back() + 1;

        const xq_tiles before = tiles;
        tiles.place(cells, idxs);
        check_placed(before, idxs);
    }

    void seal(const std::vector<xq_seal> & seals) {
        for (const xq_seal & e : seals) {
            for (int c = 0; c < XQ_TILE; ++c) {
                codes[e.tile*XQ_TILE + c] = (e.cells >> c & 1) ? rows[e.page*XQ_TILE + c] : -2;
            }
        }
    }

    void check_placed(const xq_tiles & before, const std::vector<uint32_t> & idxs) const {
        std::vector<bool> touched(tiles.n_tiles());
        for (uint32_t i : idxs) {
            touched[i/XQ_TILE] = true;
        }
        std::vector<int> owner(tiles.n_pages(), -1);
        std::vector<bool> listed(tiles.n_tiles());
        for (const xq_seal & e : tiles.seals()) {
            CHECK(!listed[e.tile], "tile", e.tile);
            listed[e.tile] = true;
            CHECK(tiles.sealed(e.tile) && tiles.page(e.tile) == e.page && e.page >= 0, "tile", e.tile);
            CHECK(e.cells == mask(e.tile), "tile", e.tile);
            CHECK(tiles.from(e.tile) == newest(e.tile) + rules.window, "tile", e.tile);
        }
        bool early = false;
        int given_up = 0, kept = 2; // 0 free to go, 1 under the rules, 2 of this batch: in that order
        for (int t = 0; t < tiles.n_tiles(); ++t) {
            const int page = tiles.page(t);
            CHECK(page < tiles.n_pages(), "tile", t);
            if (page >= 0) {
                CHECK(owner[page] < 0, "page", page, "tiles", owner[page], t);
                owner[page] = t;
            }
            if (!in_use(t)) {
                CHECK(page < 0 && !tiles.sealed(t), "empty tile", t);
                continue;
            }
            CHECK(page >= 0 || tiles.sealed(t), "tile without anything", t);
            CHECK(page >= 0 || !touched[t], "no page for a tile of the batch", t, "of", idxs.size(), "tokens");
            const bool was_sealed = before.sealed(t) && !touched[t];
            CHECK(listed[t] == (tiles.sealed(t) && !was_sealed), "tile", t);
            CHECK(!was_sealed || tiles.sealed(t), "tile", t);
            if (page >= 0 && before.page(t) >= 0 && in_use(t)) {
                CHECK(page == before.page(t) || (touched[t] && mask_all_new(t, idxs)), "tile moved to another page", t);
            }
            if (!listed[t] && tiles.page(t) >= 0 && !tiles.sealed(t)) {
                CHECK(is_protected(t) || mask(t) != 0xFFFFFFFFu, "should be sealed", t);
            }
            const int rank = touched[t] ? 2 : is_protected(t);
            if (listed[t] && (is_protected(t) || mask(t) != 0xFFFFFFFFu)) {
                early = true;
                given_up = std::max(given_up, rank);
            } else if (!tiles.sealed(t)) {
                kept = std::min(kept, rank);
            }
        }
        CHECK(given_up <= kept, "sealed early", given_up, "while there was", kept);
        const int to_give = tiles.n_pages() - tiles.count_residual();
        CHECK(!early || to_give <= xq_tile_rules::fresh(rules.max_ubatch), "sealed early with", to_give, "pages to give");
        CHECK(tiles.has_room(cells, rules.max_ubatch), "no room after a batch");
    }

    bool mask_all_new(int tile, const std::vector<uint32_t> & idxs) const {
        uint32_t m = mask(tile);
        for (uint32_t i : idxs) {
            if ((int) (i/XQ_TILE) == tile) {
                m &= ~(1u << i%XQ_TILE);
            }
        }
        return m == 0;
    }

    std::vector<int> data;        // what every cell was given
    std::vector<int> codes, rows; // what tiles and page rows hold
    int next_id = 0;
};
