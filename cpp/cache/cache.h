// The packed cache behind llama_kv_cache's cells: one layer store per packed layer, one set of tiles per stream.
#pragma once

#include "cache/config.h"
#include "cache/identity.h"
#include "cache/metric.h"
#include "cache/plan.h"
#include "cache/tiles.h"
#include "graph/nodes.h"

#include "ggml-backend.h"
#include "ggml.h"
#include "llama-hparams.h"
#include "llama-memory.h"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

struct llama_model;
struct llama_ubatch;
struct xq_saved_tile;
class llama_io_write_i;
class llama_io_read_i;
class llama_kv_cells;
class llama_kv_cache;

// One packed layer: what nodes are told of it (pointers to `node` are kept by graphs) and its tensors. A follower's
// code tensors are its leader's.
struct xq_layer {
    xq_layer_plan plan;
    uint32_t n_tiles = 0, n_rows = 0;
    xq_node_layer  node{};
    xq_node_planes planes{};
    bool on_host = true;
    std::shared_ptr<xq_metric> metric; // null: keys as they are

    bool owns_k() const { return plan.k_leader == plan.shape.il; }
    bool owns_v() const { return plan.v_leader == plan.shape.il; }
    size_t k_words()     const { return (size_t) n_tiles*plan.shape.n_head_kv*xq_head_words(plan.k); }
    size_t v_words()     const { return (size_t) n_tiles*plan.shape.n_head_kv*xq_head_words(plan.v); }
    size_t k_meta_size() const { return (size_t) n_tiles*plan.shape.n_head_kv*xq_head_meta_bytes(plan.k); }
    size_t v_meta_size() const { return (size_t) n_tiles*plan.shape.n_head_kv*xq_head_meta_bytes(plan.v); }
    // Bytes of a stream.
    size_t code_bytes() const { return ((owns_k() ? k_words() : 0) + (owns_v() ? v_words() : 0))*4; }
    size_t meta_bytes() const { return k_meta_size() + v_meta_size(); }
    size_t page_bytes() const { return (size_t) n_rows*plan.shape.n_head_kv*(plan.shape.dk + plan.shape.dv)*2; }

    // Fills in `node`.
    void describe();
};

// The caller's eval callback, and whether it has stopped the micro-batch's graph.
struct xq_watch {
    ggml_backend_sched_eval_callback call = nullptr;
    void * data = nullptr;
    bool stopped = false;
};

class xq_cache {
public:
    struct params {
        const llama_model   & model;
        const llama_hparams & hparams;
        bool v_trans, offload; // offload: layers lie where the model's do, else on the CPU
        uint32_t kv_size, n_stream, n_seq_max;
        uint32_t n_swa;      // of a cache of window layers
        llama_swa_type swa;  // NONE: of all others
        const llama_memory_i::layer_filter_cb & filter;
        const llama_memory_i::layer_reuse_cb  & reuse; // which layer's keys and values a layer reads that has none
        const llama_kv_cache * other;                  // whose cells and tensors a draft context reads, or null
    };

    // What caches created next by this thread must know of their context.
    struct expectation {
        uint32_t n_ubatch = 0;
        bool whole    = false; // a micro-batch of n_ubatch tokens is never cut
        bool swa_full = false; // caches of window layers keep all tokens
    };
    static void expect(const expectation & of);

    // The packed cache if the types ask for one, else null. Either way the types become those of the tensors that
    // llama_kv_cache allocates itself: pages, or the plain cache of a sliding window, which stays in f16 unless packing
    // it is asked for and saves memory; then kv_size becomes the number of cells that its ring needs.
    // Throws std::runtime_error (rule, value, remedy) for what cannot be packed.
    static std::unique_ptr<xq_cache> create(ggml_type & type_k, ggml_type & type_v, uint32_t & kv_size,
                                            const params & p);

    // ---- storage, while llama_kv_cache creates its layers
    uint32_t rows() const { return tiles[0].n_pages()*XQ_TILE; } // page rows of a stream
    // In the buffers of `buft`; refused if its backend has no kernels for the layer.
    void add_layer(ggml_context * ctx, int il, ggml_tensor * k_pages, ggml_tensor * v_pages, ggml_backend_buffer_type_t buft);

    // ---- placing tokens
    bool writable(uint32_t stream, const llama_kv_cells & cells, uint32_t cell) const { return tiles[stream].writable(cells, cell); }
    uint32_t search_from(uint32_t stream, const llama_kv_cells & cells, uint32_t head) const {
        return tiles[stream].search_from(cells, head);
    }
    bool has_room(uint32_t stream, const llama_kv_cells & cells, int n_tokens) const { return tiles[stream].has_room(cells, n_tokens); }
    void place(uint32_t stream, const llama_kv_cells & cells, const std::vector<uint32_t> & idxs) { tiles[stream].place(cells, idxs); }
    // Cells that place() and what goes before it change: those of the tokens, and the outdated ones of a ring.
    void add_outdated(uint32_t stream, const llama_kv_cells & cells, std::vector<uint32_t> & idxs) const;
    void drop_outdated(uint32_t stream, llama_kv_cells & cells, const std::vector<uint32_t> & idxs) const;
    std::vector<xq_tiles> trial_begin() const { return tiles; }
    void trial_end(std::vector<xq_tiles> saved) { tiles = std::move(saved); }
    uint32_t max_ubatch() const { return micro_batch; }
    void copy_stream(uint32_t src, uint32_t dst);

    // No cells were found for a batch: tiles with holes are merged (room.cpp). False: there is nothing to gain.
    bool make_room(llama_kv_cells & cells, uint32_t stream);

    // ---- a micro-batch's graph: what place() changed stays pending until the graph has succeeded
    void begin_step();
    void undo_step();    // the graph failed
    void finish_seals(); // it was stopped and its tokens stay: seals that it may have left out are made here
    void settle(uint32_t stream, const llama_kv_cells & cells); // makes room for the next micro-batch, if there is none
    xq_watch watch;

    // ---- graph inputs
    ggml_tensor * build_table(ggml_context * ctx, const llama_ubatch & ubatch) const;
    void set_table(ggml_tensor * dst, const llama_ubatch & ubatch, uint32_t stream0, const std::vector<int32_t> & streams) const;
    int64_t row(uint32_t stream, uint32_t cell) const { return (int64_t) stream*rows() + tiles[stream].row(cell); }
    const xq_layer * find(int il) const; // where a layer's keys and values are, or null

    // ---- session state (state.cpp): exactly the visible tokens, packed as they are. seq_id -1: all sequences.
    void state_write(llama_io_write_i & io, const std::vector<llama_kv_cells> & cells, int seq_id) const;
    // Into empty tiles: attention does not care about their order. seq_id -1 replaces everything; else the sequence is
    // put into `stream`. All is checked before anything is written; on failure the sequences concerned are empty and
    // the reason is thrown.
    void state_read(llama_io_read_i & io, std::vector<llama_kv_cells> & cells, int seq_id, uint32_t stream);

    // ---- report (report.cpp)
    // tokens: cells in use; unpacked_bytes: an f16 window cache that belongs to the same model; n_threads: each has
    // scratch of its own; window: the packed cache of the model's window layers, or null.
    std::string report(uint32_t tokens, size_t unpacked_bytes, int n_threads, const xq_cache * window) const;

private:
    xq_cache(const params & p, const xq_config & config, const xq_tile_rules & rules);

    static std::unique_ptr<xq_cache> create_window(const params & p, const xq_config & config);
    size_t bytes() const; // of pages, codes and metadata
    size_t f16_bytes() const; // of the plain cache in its place

    using saved_tiles = std::vector<xq_saved_tile>;
    saved_tiles tiles_to_save(const llama_kv_cells & cells, int seq_id, uint32_t stream) const;
    saved_tiles read_checked(llama_io_read_i & io, bool whole, std::vector<xq_metric_steps> & metric) const;
    bool forget_unseen(llama_kv_cells & cells, uint32_t stream);
    saved_tiles take_sparse(llama_kv_cells & cells, uint32_t stream);
    // A restored sequence that finds too few empty tiles, and cells enough: its tiles are merged with those that have holes.
    bool join_sparse(saved_tiles & list, llama_kv_cells & cells, int seq_id, uint32_t stream);
    std::vector<int> fit(saved_tiles & list, const llama_kv_cells & cells, bool whole, uint32_t stream) const;
    void put(const saved_tiles & list, const std::vector<int> & at, llama_kv_cells & cells, int seq_id, uint32_t stream);
    // The factors of all layers' keys, and taking over those of a state, which a cache that holds other tokens cannot.
    std::vector<xq_metric_steps> metric() const;
    void adopt(const std::vector<xq_metric_steps> & metric, const std::vector<llama_kv_cells> & cells, int seq_id);
    void seal_tiles(uint32_t stream, const std::vector<xq_seal> & seals); // on the host
    std::string fingerprint() const; // of everything that the bytes of a session depend on, but for the weights
    const xq_identity & identity() const;

    const llama_model & model;
    mutable std::unique_ptr<xq_identity> identified; // once asked for
    xq_config config;
    uint32_t  kv_size, n_stream, n_seq_max;
    uint32_t  f16_cells; // of a stream of the plain cache that this one replaces
    uint32_t  micro_batch; // largest: config.max_ubatch, or what a context needs whole
    std::map<int, int> reused; // layers without keys and values of their own: the layer whose they read
    std::vector<xq_layer> layers; // sized once: graph nodes keep pointers to its elements
    std::vector<xq_tiles> tiles;  // by stream
};

// Reason of this thread's last refusal, for the C API.
void xq_set_error(const std::string & text);
const std::string & xq_error();
