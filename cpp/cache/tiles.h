// Bookkeeping of one stream's tiles: which are sealed, which have a page of f16 rows, what to seal next.
// Pure state over cells; it touches no tensor, so that a batch can be placed in trial and rolled back.
//
// A tile's life:  empty -> residual (has a page) -> sealed with its page kept as backup -> sealed.
// Sealing does not take the page away at once: pages are reclaimed, oldest first, when new tiles need them.
// While the backup is there, rewinding into the tile is exact: it simply becomes residual again.
#pragma once

#include "llama-hparams.h"
#include "llama-kv-cells.h"

#include <cstdint>
#include <vector>

struct xq_tile_rules {
    int window     = 128; // newest tokens that stay in full precision
    int sink       = 0;   // tiles with a position below this stay residual
    int max_ubatch = 256;
    int n_seq      = 1;   // sequences that the stream may hold

    // A ring of one sequence: tokens that have left this sliding window give their cells up, tile by tile.
    uint32_t       n_swa = 0;
    llama_swa_type swa   = LLAMA_SWA_TYPE_NONE;

    bool is_ring() const { return swa != LLAMA_SWA_TYPE_NONE; }
    // Cells in which the window and a micro-batch always fit. Tokens that are seen touch a tile more than they fill.
    static uint32_t ring_cells(uint32_t n_swa, uint32_t n_ubatch);

    // Pages that keep the rules for every sequence and leave room for a whole micro-batch.
    int pages(int n_tiles) const;

    // Of one sequence: rewinds to positions at most so far below the first that it has never had are exact, any number.
    int reach() const;

    // Most empty tiles that n_tokens can open.
    static int fresh(int n_tokens);
};

struct xq_seal {
    int32_t tile, page;
    uint32_t cells; // bit set = the cell holds data
};

class xq_tiles {
public:
    xq_tiles(const xq_tile_rules & rules, uint32_t n_cells);

    // May a new token go to this cell? It must be empty, or in a tile of a ring that no later token sees; and not among
    // the holes of a tile that is sealed for good.
    bool writable(const llama_kv_cells & cells, uint32_t cell) const;

    // Are there pages for a micro-batch of this size? If not, settle() makes them: sequences were removed, or restored.
    bool has_room(const llama_kv_cells & cells, int n_tokens) const;

    // Cells to empty before tokens go to `idxs`: what is left in the tiles that they take over, and all tokens before
    // that, so that those of a sequence that are there always are its newest ones.
    std::vector<uint32_t> outdated(const llama_kv_cells & cells, const std::vector<uint32_t> & idxs) const;
    // May a token at `next` positions behind the newest, or later, see what is in this cell?
    bool visible(const llama_kv_cells & cells, uint32_t cell, int next) const;

    // Where a search for cells begins: in a ring behind the newest token, so that its tile is filled first and its
    // tiles are those of a history without rewinds; else at `head`.
    uint32_t search_from(const llama_kv_cells & cells, uint32_t head) const;

    // Account for a micro-batch whose cells have just been set: give its tiles pages and decide what is sealed
    // now. Deterministic in state and arguments. What it changes is pending until its graph has succeeded.
    void confirm() { pending = false; }
    // The graph failed, at any node: tiles it was to seal have their page, which holds all rows from before, and need no
    // codes; what was given to it is free. A backup that it took over is gone.
    void undo();
    bool is_pending() const { return pending; }
    void place(const llama_kv_cells & cells, const std::vector<uint32_t> & idxs);

    const std::vector<xq_seal> & seals() const { return seal_list; }
    bool is_ring() const { return rules.is_ring(); }
    int n_tiles() const { return (int) tiles.size(); }
    int n_pages() const { return pages_total; }
    int page(int tile) const { return tiles[tile].page; }
    bool sealed(int tile) const { return tiles[tile].sealed; }
    int from(int tile) const; // XQ_NOT_SEALED or the first query position that reads the codes
    int row(uint32_t cell) const; // page row of a cell in a residual tile

    // Restoring a session, once its cells are set: a tile that is sealed and has no page, or a residual one with a
    // fresh page (-1: none left).
    void restore_sealed(const llama_kv_cells & cells, int tile);
    int  restore_residual(int tile);
    // Tiles to seal outside a graph, by the caller and at once: the one whose page is missed least; then, when all is
    // restored, those whose pages the next micro-batch needs.
    std::vector<xq_seal> give_way(const llama_kv_cells & cells);
    std::vector<xq_seal> settle(const llama_kv_cells & cells);
    int  spare_pages(const llama_kv_cells & cells) const; // that can be had without it, beside those for the next micro-batch
    bool in_use(const llama_kv_cells & cells, int tile) const; // has a token
    bool is_open(const llama_kv_cells & cells, int tile) const; // has none that a later one may see
    void forget(); // all tiles empty

    // Take codes and pages from tiles whose cells have all been emptied.
    void drop_empty(const llama_kv_cells & cells);

    int count_sealed() const;
    int count_residual() const;

private:
    struct tile_state {
        int32_t  page   = -1;
        bool     sealed = false;
        int32_t  from   = 0;
        uint32_t age    = 0; // when it was written last
    };

    int32_t from_of(const llama_kv_cells & cells, int tile) const;
    uint32_t data_mask(const llama_kv_cells & cells, int tile) const;
    bool protected_by_rules(const llama_kv_cells & cells, int tile) const;
    void seal(const llama_kv_cells & cells, int tile);
    int  take_page(uint32_t now);
    int  pages_to_give(const llama_kv_cells & cells) const;
    int  reserve(const llama_kv_cells & cells, int n_tokens) const;
    void keep_reserve(const llama_kv_cells & cells, uint32_t now);
    void make_pages(const llama_kv_cells & cells, uint32_t now, int missing);

    xq_tile_rules rules;
    std::vector<tile_state> tiles, before; // before: the last place(), while it is pending
    std::vector<int32_t>    free_pages;
    std::vector<xq_seal>    seal_list;
    int      pages_total;
    uint32_t clock = 0;
    bool     pending = false;
};
