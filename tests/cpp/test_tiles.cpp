// The bookkeeping of tiles over random histories of a llama.cpp cache.
#include "stream.h"

#include <random>
#include <set>

namespace {

using rng_t = std::mt19937;

int pick(rng_t & rng, int lo, int hi) { return lo + (int) (rng() % (uint32_t) (hi - lo + 1)); }

template <class T> T one_of(rng_t & rng, std::initializer_list<T> list) { return list.begin()[rng() % list.size()]; }

xq_tile_rules rules_of(int window, int sink, int max_ubatch, int n_seq) {
    xq_tile_rules r;
    r.window = window; r.sink = sink; r.max_ubatch = max_ubatch; r.n_seq = n_seq;
    return r;
}

bool same(const xq_tiles & a, const xq_tiles & b) {
    bool ok = a.n_tiles() == b.n_tiles() && a.seals().size() == b.seals().size();
    for (int t = 0; ok && t < a.n_tiles(); ++t) {
        ok = a.page(t) == b.page(t) && a.sealed(t) == b.sealed(t) && a.from(t) == b.from(t);
    }
    for (size_t i = 0; ok && i < a.seals().size(); ++i) {
        const xq_seal & x = a.seals()[i], & y = b.seals()[i];
        ok = x.tile == y.tile && x.page == y.page && x.cells == y.cells;
    }
    return ok;
}

// One random step: a batch, or something a user does to sequences.
void step(stream & s, rng_t & rng) {
    const int n_seq = s.rules.n_seq;
    const llama_seq_id seq = pick(rng, 0, n_seq - 1);
    const llama_pos    max = s.cells.seq_pos_max(seq);
    switch (pick(rng, 0, 16)) {
        case 0: // rewind
            s.seq_rm(seq, std::max(0, max - one_of(rng, {0, 1, 20, 40, 100, 300})));
            break;
        case 1: { // a hole
            const int p0 = pick(rng, 0, std::max(0, (int) max));
            s.seq_rm(seq, p0, p0 + pick(rng, 1, 80));
            break;
        }
        case 2:
            if (pick(rng, 0, 3) == 0) { s.seq_rm(seq, 0); }
            break;
        case 3: { // fork
            const llama_seq_id dst = pick(rng, 0, n_seq - 1);
            if (dst != seq) {
                s.seq_rm(dst, 0);
                s.seq_cp(seq, dst, 0, pick(rng, 1, std::max(1, (int) max + 1)));
            }
            break;
        }
        case 4:
            if (pick(rng, 0, 5) == 0) { s.seq_keep(seq); }
            if (pick(rng, 0, 9) == 0) { s.clear(); }
            break;
        case 5: case 6: { // every sequence decodes a token, several times
            for (int k = pick(rng, 1, 40); k > 0; --k) {
                std::vector<token> batch;
                for (llama_seq_id q = 0; q < n_seq; ++q) {
                    batch.push_back({s.cells.seq_pos_max(q) + 1, {q}});
                }
                s.put(batch);
            }
            break;
        }
        case 7: { // a batch that fails, and is not tried again
            std::vector<token> batch;
            for (int k = pick(rng, 1, s.rules.max_ubatch); k > 0; --k) {
                batch.push_back({max + 1 + (llama_pos) batch.size(), {seq}});
            }
            s.fail(batch);
            break;
        }
        default: { // a prompt in micro-batches
            int left = one_of(rng, {1, 2, 7, 31, 32, 33, 100, 300});
            while (left > 0) {
                const int n = std::min(left, pick(rng, 1, s.rules.max_ubatch));
                if (!s.put(seq, n)) {
                    break;
                }
                left -= n;
            }
        }
    }
}

void random_histories() {
    for (int seed = 0; seed < 250; ++seed) {
        rng_t rng(seed);
        const auto rules = rules_of(one_of(rng, {32, 64, 128}), one_of(rng, {0, 4, 40}), one_of(rng, {32, 64, 256}),
                                    one_of(rng, {1, 1, 2, 4}));
        const int n_cells = one_of(rng, {256, 500, 1024, 2048});
        stream s(rules, n_cells);
        for (int k = 0; k < 60; ++k) {
            check_context = check_text("seed", seed, "step", k, "window", rules.window, "sink", rules.sink, "ubatch", rules.max_ubatch,
                                       "n_seq", rules.n_seq, "cells", n_cells);
            step(s, rng);
        }
    }
}

// The same history twice, and a trial on a copy that is thrown away first, as llama.cpp prepares a batch.
void determinism() {
    for (int seed = 0; seed < 30; ++seed) {
        check_context = check_text("seed", seed);
        rng_t a(seed), b(seed);
        const auto rules = rules_of(64, 4, 64, 2);
        stream one(rules, 1024), two(rules, 1024);
        for (int k = 0; k < 40; ++k) {
            step(one, a);
            const rng_t saved = b;
            stream trial = two;
            step(trial, b);
            b = saved;
            step(two, b);
            CHECK(same(one.tiles, two.tiles), "step", k);
            CHECK(same(trial.tiles, two.tiles), "step", k);
        }
    }
}

// A history in which every batch fails once, and then succeeds: tiles are as in one without failures.
void failed_batches() {
    for (int seed = 0; seed < 100; ++seed) {
        rng_t a(seed), b(seed);
        const auto rules = rules_of(one_of(a, {32, 64, 128}), one_of(a, {0, 4}), one_of(a, {32, 64, 256}), one_of(a, {1, 2, 4}));
        b = a;
        stream plain(rules, 1024), spoilt(rules, 1024);
        spoilt.fails_first = true;
        for (int k = 0; k < 40; ++k) {
            check_context = check_text("seed", seed, "step", k);
            step(plain, a);
            step(spoilt, b);
            for (int t = 0; t < plain.tiles.n_tiles(); ++t) {
                const xq_tiles & x = plain.tiles, & y = spoilt.tiles;
                CHECK(x.sealed(t) == y.sealed(t) && x.from(t) == y.from(t) && (x.page(t) < 0) == (y.page(t) < 0), "tile", t);
            }
        }
    }
}

// Rings: micro-batches always go through, whatever was sealed, and the tokens that are there are the newest ones. After
// rewinds into sealed tiles there may be no room: xq_cache::make_room is for that.
void rings() {
    for (int seed = 0; seed < 400; ++seed) {
        rng_t rng(seed);
        auto rules = rules_of(one_of(rng, {32, 64, 128}), one_of(rng, {0, 4, 40}), one_of(rng, {32, 64, 256}), 1);
        rules.n_swa = (uint32_t) one_of(rng, {1, 8, 31, 32, 33, 64, 100, 256, 500});
        rules.swa   = one_of(rng, {LLAMA_SWA_TYPE_STANDARD, LLAMA_SWA_TYPE_CHUNKED});
        const bool rewinds = pick(rng, 0, 1) == 1;
        stream s(rules, xq_tile_rules::ring_cells(rules.n_swa, (uint32_t) rules.max_ubatch));
        for (int k = 0; k < 80; ++k) {
            check_context = check_text("seed", seed, "step", k, "n_swa", rules.n_swa, "window", rules.window, "ubatch", rules.max_ubatch);
            const int n = pick(rng, 1, one_of(rng, {1, 2, 32, rules.max_ubatch}));
            const llama_pos max = s.cells.seq_pos_max(0);
            if (rewinds && pick(rng, 0, 3) == 0) {
                s.seq_rm(0, std::max(0, max + 1 - one_of(rng, {1, 20, 40, 100, 300})));
            } else if (pick(rng, 0, 5) == 0) {
                std::vector<token> batch;
                for (int i = 0; i < n; ++i) {
                    batch.push_back({max + 1 + i, {0}});
                }
                s.fail(batch);
            } else if (!s.put(0, n)) {
                CHECK(rewinds, "no cells for", n, "tokens");
                s.clear();
            }
            const llama_pos newest = s.cells.seq_pos_max(0);
            CHECK(newest < 0 || (int) s.cells.get_used() == newest - s.cells.seq_pos_min(0) + 1, "tokens are missing");
        }
    }
}

// What was to be sealed when the graph failed is in its page; a backup that was there still serves a rewind.
void undone() {
    check_context = "undone";
    stream s(rules_of(32, 0, 32, 1), 2048);
    for (int i = 0; i < 20; ++i) {
        CHECK(s.put(0, 32));
    }
    const xq_tiles before = s.tiles;
    const llama_pos max = s.cells.seq_pos_max(0);
    std::vector<token> batch;
    for (int i = 0; i < 32; ++i) {
        batch.push_back({max + 1 + i, {0}});
    }
    CHECK(s.fail(batch));
    int sealed = 0;
    for (int t = 0; t < s.tiles.n_tiles(); ++t) {
        CHECK(s.tiles.sealed(t) == before.sealed(t) && s.tiles.from(t) == before.from(t), "tile", t);
        CHECK(s.tiles.page(t) == before.page(t) || (before.sealed(t) && s.tiles.page(t) < 0), "tile", t);
        sealed += s.tiles.sealed(t);
    }
    CHECK(sealed == before.count_sealed() && s.tiles.seals().empty() && !s.tiles.is_pending());
    s.tiles.undo(); // nothing is pending
    CHECK(s.tiles.count_sealed() == sealed);
}

// One sequence that only grows, however its prompt is cut: each query sees the same tokens packed, never one of
// the newest `window` or of the sinks.
void growing(int window, int sink) {
    const int n = 700;
    std::vector<std::vector<bool>> packed_at(n); // by query and token; the first cut fills it
    for (int cut : {256, 1, 7, 32, 33, 100}) {
        check_context = check_text("window", window, "sink", sink, "cut", cut);
        stream s(rules_of(window, sink, 256, 1), 1024);
        for (int done = 0; done < n;) {
            const int now = std::min(cut, n - done);
            CHECK(s.put(0, now));
            for (int q = done; q < done + now; ++q) {
                std::vector<bool> packed(q + 1);
                for (int p = 0; p <= q; ++p) {
                    packed[p] = s.form(p/XQ_TILE, q) == XQ_READ_CODES; // cells are positions here
                    CHECK(!packed[p] || (q - p >= window && p >= sink), "query", q, "token", p);
                    const int tile_end = p/XQ_TILE*XQ_TILE + XQ_TILE - 1;
                    CHECK(packed[p] || tile_end + window > q || tile_end - XQ_TILE + 1 < sink, "query", q, "token", p);
                }
                if (cut == 256) {
                    packed_at[q] = packed;
                }
                CHECK(packed == packed_at[q], "query", q);
            }
            done += now;
        }
    }
}

// Sequences that grow together, a token each at a time: window and sinks hold for all of them.
void growing_together() {
    for (int n_seq : {2, 3, 8}) {
        const auto rules = rules_of(64, 4, 64, n_seq);
        stream s(rules, 4096);
        for (int k = 0; k < 300; ++k) {
            check_context = check_text("n_seq", n_seq, "step", k);
            std::vector<token> batch;
            for (llama_seq_id q = 0; q < n_seq; ++q) {
                batch.push_back({k, {q}});
            }
            CHECK(s.put(batch));
            for (int t = 0; t < s.tiles.n_tiles(); ++t) {
                CHECK(!s.is_protected(t) || !s.tiles.sealed(t), "tile", t);
            }
        }
    }
}

// Into a sealed tile that still has its page: the page becomes the truth again. However long the text before it.
void rewind_into_backup() {
    for (int window : {32, 128}) {
        for (int max_ubatch : {32, 256}) {
            for (int n : {256, 1500}) {
                check_context = check_text("window", window, "ubatch", max_ubatch, "tokens", n);
                stream s(rules_of(window, 4, max_ubatch, 1), 2048);
                for (int done = 0; done < n; done += 4) {
                    CHECK(s.put(0, 4));
                }
                int tile = n/XQ_TILE - 1;
                while (tile > 0 && !s.tiles.sealed(tile)) {
                    --tile;
                }
                const int page = s.tiles.page(tile), pos = tile*XQ_TILE + 9;
                CHECK(tile > 0 && page >= 0);
                s.seq_rm(0, pos);
                CHECK(s.put(0, 1));
                CHECK(!s.tiles.sealed(tile) && s.tiles.page(tile) == page && s.tiles.from(tile) == XQ_NOT_SEALED);
                CHECK(s.cells.pos_get(pos) == pos); // in the same cell
                CHECK(s.tiles.page(tile + 1) < 0);  // emptied, so its page is free again
            }
        }
    }
}

// Rewinds, any number of them and however few tokens between, to positions at most rules.reach() below the first that was
// never given: every query reads what it reads in a run without rewinds.
bool repeated_rewinds(const xq_tile_rules & rules, int reach, int seed) {
    rng_t rng(seed);
    stream s(rules, 4096);
    int high = 0;
    bool exact = true;
    for (int k = 0; k < 40 && high < 2000; ++k) {
        const int end = s.cells.seq_pos_max(0) + 1;
        if (pick(rng, 0, 1) && high > 0) {
            const int to = std::max(1, high - one_of(rng, {reach, pick(rng, 1, reach)}));
            s.seq_rm(0, std::min(end, to));
        }
        for (int left = one_of(rng, {1, 5, 33, 59, 100, 400}); left > 0;) {
            const int n = std::min(left, pick(rng, 1, rules.max_ubatch)), first = s.cells.seq_pos_max(0) + 1;
            CHECK(s.put(0, n));
            left -= n;
            high = std::max(high, first + n);
            for (int q = first; q < first + n; ++q) {
                for (int t = 0; t <= q/XQ_TILE; ++t) {
                    const bool packed = t*XQ_TILE >= rules.sink && q >= t*XQ_TILE + XQ_TILE - 1 + rules.window;
                    exact = exact && s.form(t, q) == (packed ? XQ_READ_CODES : XQ_READ_PAGE);
                }
            }
        }
    }
    return exact;
}

void rewinds_within_reach() {
    for (int window : {32, 128, 256}) {
        for (int sink : {0, 4, 40}) {
            for (int max_ubatch : {32, 256}) {
                const auto rules = rules_of(window, sink, max_ubatch, 1);
                int beyond = 0;
                for (int seed = 0; seed < 4; ++seed) {
                    check_context = check_text("window", window, "sink", sink, "ubatch", max_ubatch, "seed", seed);
                    CHECK(repeated_rewinds(rules, rules.reach(), seed));
                    beyond += !repeated_rewinds(rules, rules.reach() + XQ_TILE, seed);
                }
                CHECK(beyond > 0, "the reach is more than is said");
            }
        }
    }
}

// Holes of a tile whose page is gone stay holes until it is empty.
void sealed_for_good() {
    check_context = "sealed for good";
    stream s(rules_of(32, 0, 32, 1), 2048);
    for (int i = 0; i < 40; ++i) {
        CHECK(s.put(0, 32));
    }
    CHECK(s.tiles.sealed(0) && s.tiles.page(0) < 0);
    s.seq_rm(0, 3, 20);
    for (uint32_t i = 3; i < 20; ++i) {
        CHECK(s.cells.is_empty(i) && !s.tiles.writable(s.cells, i), "cell", i);
    }
    CHECK(s.put(0, 32));
    CHECK(s.mask(0) == ~(((1u << 20) - 1) & ~((1u << 3) - 1)));
    s.seq_rm(0, 0, 32);
    CHECK(s.tiles.writable(s.cells, 0));
    CHECK(s.put(0, 32));
    CHECK(!s.tiles.sealed(0) && s.tiles.page(0) >= 0 && s.mask(0) == 0xFFFFFFFFu);
}

// A batch fills holes in tiles whose pages count as spare, and opens empty tiles too: the spare pages are needed twice.
void holes_in_backups() {
    for (int every : {1, 2, 4, 8, 16}) {
        check_context = check_text("every", every);
        const auto rules = rules_of(32, 0, 256, 2);
        stream s(rules, 4096);
        for (int tile = 0; tile < 60; ++tile) {
            std::vector<token> batch;
            for (int c = 0; c < XQ_TILE; ++c) {
                const llama_seq_id q = c % 32 < every ? 1 : 0;
                const int at = q == 1 ? tile*every + c : tile*(XQ_TILE - every) + c - every;
                batch.push_back({at, {q}});
            }
            CHECK(s.put(batch));
        }
        s.seq_rm(1, 0);
        for (int n : {256, 64, 256, 256}) {
            CHECK(s.put(0, n));
        }
    }
}

void pages_and_room() {
    check_context = "pages";
    const auto r = rules_of(128, 4, 256, 1);
    CHECK(xq_tile_rules::fresh(1) == 3 && xq_tile_rules::fresh(32) == 3 && xq_tile_rules::fresh(33) == 4);
    CHECK(r.pages(4) == 4);           // never more than tiles
    CHECK(r.pages(1000) == 10 + 4 + 1 + 1);
    CHECK(rules_of(32, 0, 32, 3).pages(1000) == 3 + 3*2);
    stream s(r, 128);                 // a page for every tile: nothing has to give way
    for (int i = 0; i < 4; ++i) {
        CHECK(s.put(0, 32));
    }
    CHECK(s.tiles.count_residual() == 4 && s.tiles.count_sealed() == 0);
    CHECK(!s.put(0, 1));              // full
}

// What a restored session does to a cache that has been emptied before.
void restored() {
    check_context = "restored";
    const auto rules = rules_of(32, 0, 32, 1);
    llama_kv_cells cells;
    cells.resize(1024);
    xq_tiles tiles(rules, 1024);
    tiles.forget();
    std::set<int> pages;
    for (int t = 0; t < tiles.n_pages(); ++t) {
        pages.insert(tiles.restore_residual(t));
    }
    CHECK((int) pages.size() == tiles.n_pages() && *pages.begin() == 0);
    CHECK(tiles.restore_residual(tiles.n_pages()) == -1);
    for (uint32_t i = 0; i < 21*XQ_TILE; ++i) {
        cells.pos_set(i, (llama_pos) i);
        cells.seq_add(i, 0);
    }
    CHECK(!tiles.has_room(cells, 1));
    tiles.restore_sealed(cells, 20);
    CHECK(tiles.sealed(20) && tiles.page(20) < 0 && tiles.from(20) == 21*XQ_TILE - 1 + rules.window);
    // Pages for more: the oldest tile gives way, with all its cells; its page goes to the next one.
    const std::vector<xq_seal> first = tiles.give_way(cells);
    CHECK(first.size() == 1 && first[0].tile == 0 && first[0].cells == 0xFFFFFFFFu && tiles.sealed(0));
    CHECK(tiles.restore_residual(tiles.n_pages()) == first[0].page && tiles.page(0) < 0);
    // Then as many as the next micro-batch needs.
    for (const xq_seal & e : tiles.settle(cells)) {
        CHECK(tiles.sealed(e.tile) && tiles.page(e.tile) == e.page && e.cells == 0xFFFFFFFFu, "tile", e.tile);
    }
    CHECK(tiles.seals().empty() && tiles.spare_pages(cells) >= 0 && tiles.has_room(cells, rules.max_ubatch));
    cells.reset();
    tiles.drop_empty(cells);
    CHECK(tiles.count_residual() == 0 && tiles.count_sealed() == 0 && tiles.has_room(cells, 32));
    tiles.forget();
    CHECK(same(tiles, xq_tiles(rules, 1024)));
}

} // namespace

int main() {
    pages_and_room();
    for (int window : {32, 128}) {
        for (int sink : {0, 4, 40}) {
            growing(window, sink);
        }
    }
    growing_together();
    rewind_into_backup();
    rewinds_within_reach();
    sealed_for_good();
    restored();
    holes_in_backups();
    determinism();
    failed_batches();
    rings();
    undone();
    random_histories();
    return check_report();
}
