// Session state: exactly the tokens that its sequences see, in the form in which they are read next, so that a saved
// session is as small as the cache. Everything has a checksum, and nothing is put into the cache before all is checked.
//
//   u32 magic "XQST", u32 STATE_VERSION
//   sections (section.h: u32 length, bytes, u32 CRC-32 of all so far, the eight bytes above included)
//     header   u32 1: a whole context, 0: one sequence     u32 streams (whole)     u32 cells of a stream (whole)
//              u32 tiles     u32 tokens     identity of the weights (identity.h)
//              per layer whose keys are in a metric: steps of every KV head and channel (metric.h)     fingerprint, to the end
//     a tile   u32 stream, u32 tile (whole, else 0)     u32 cells that follow, as bits     u32 1: codes, 0: page rows
//              per cell: i32 pos, llama_kv_cell_ext; whole: u32 number of sequences, i32 ids
//              per layer: own codes and metadata of all heads, or rows of keys and of values, cell by cell
//
// Tiles of one sequence come by position: where they lie depends on the other sequences. A full tile's codes are the
// planes' bytes. Of a tile with other cells (of other sequences, or emptied since) the codes of the wanted tokens
// follow one by one, and the values' scales of the others are 0; scales of keys, and the grids of all scales, are those
// of the whole tile.
#include "cache/cache.h"

#include "cache/saved_tile.h"
#include "format/xq_table.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <utility>

namespace {

constexpr uint32_t MAGIC = 0x54535158, OLD_MAGIC = 0x31535158; // "XQST", "XQS1"
constexpr uint32_t STATE_VERSION = 3;

struct header {
    uint32_t whole = 0, n_stream = 0, kv_size = 0, n_tiles = 0, n_tokens = 0;
    xq_identity identity;

    template <class Io> void move(Io & io) {
        for (uint32_t * v : {&whole, &n_stream, &kv_size, &n_tiles, &n_tokens}) {
            io.move(*v);
        }
        io.move(identity);
    }
};

bool wanted(const llama_kv_cells & cells, uint32_t i, int seq_id) {
    return i < cells.size() && !cells.is_empty(i) && (seq_id == -1 || cells.seq_has(i, seq_id));
}

} // namespace

std::string xq_cache::fingerprint() const {
    std::string s = "xquant " + std::to_string(XQ_FORMAT_VERSION) + " " + config.codes_text();
    for (const auto & l : layers) {
        const auto & p = l.plan;
        for (const int v : {p.shape.il, p.shape.n_head_kv, p.shape.dk, p.shape.dv, p.k.bits, p.v.bits, p.k_leader,
                            p.v_leader}) {
            s += " " + std::to_string(v);
        }
    }
    return s;
}

std::vector<xq_metric_steps> xq_cache::metric() const {
    std::vector<xq_metric_steps> of;
    for (const auto & l : layers) {
        GGML_ASSERT(!l.metric || l.metric->known()); // a context builds its graphs before it takes tokens or states
        of.push_back(l.metric ? l.metric->steps() : xq_metric_steps{});
    }
    return of;
}

void xq_cache::adopt(const std::vector<xq_metric_steps> & of, const std::vector<llama_kv_cells> & all, int seq_id) {
    if (of == metric()) {
        return;
    }
    for (const auto & cells : all) {
        for (uint32_t i = 0; i < cells.size() && seq_id != -1; ++i) {
            if (!cells.is_empty(i) && !(cells.seq_has(i, seq_id) && cells.seq_count(i) == 1)) {
                throw std::runtime_error("its keys are in another metric (queries were measured on other hardware) and "
                                         "this context holds other sequences");
            }
        }
    }
    for (size_t i = 0; i < layers.size(); ++i) {
        if (layers[i].metric) {
            layers[i].metric->set(of[i]);
        }
    }
}

const xq_identity & xq_cache::identity() const {
    if (!identified) {
        identified.reset(new xq_identity(xq_identify(model)));
    }
    return *identified;
}

// Tiles of a stream with cells to save, without their keys and values.
xq_saved_tiles xq_cache::tiles_to_save(const llama_kv_cells & cells, int seq_id, uint32_t stream) const {
    xq_saved_tiles list;
    for (int t = 0; t < tiles[stream].n_tiles(); ++t) {
        xq_saved_tile saved;
        saved.stream = stream;
        saved.tile   = (uint32_t) t;
        int32_t next = std::numeric_limits<int32_t>::max(); // position of the next query
        for (int c = 0; c < XQ_TILE; ++c) {
            const uint32_t i = (uint32_t) t*XQ_TILE + c;
            // As llama.cpp, of one sequence what its window holds and one token more.
            if (!wanted(cells, i, seq_id) || (seq_id != -1 && !tiles[stream].visible(cells, i, 0))) {
                continue;
            }
            saved.cells |= 1u << c;
            saved.of.push_back({cells.pos_get(i), cells.ext_get(i), {}});
            for (llama_seq_id q = 0; q < (llama_seq_id) n_seq_max; ++q) {
                if (cells.seq_has(i, q) && (seq_id == -1 || q == seq_id)) {
                    next = std::min(next, cells.seq_pos_max(q) + 1);
                    if (seq_id == -1) {
                        saved.of.back().seqs.push_back(q);
                    }
                }
            }
        }
        if (saved.cells) {
            saved.sealed = xq_tile_read(tiles[stream].page(t), tiles[stream].from(t), next) == XQ_READ_CODES;
            list.push_back(std::move(saved));
        }
    }
    return list;
}

void xq_cache::state_write(llama_io_write_i & io, const std::vector<llama_kv_cells> & all, int seq_id) const {
    xq_saved_tiles list;
    for (uint32_t s = 0; s < n_stream; ++s) {
        for (auto & t : tiles_to_save(all[s], seq_id, s)) {
            list.push_back(std::move(t));
        }
    }
    const bool whole = seq_id == -1;
    if (!whole) {
        xq_sort_by_position(list);
    }
    uint32_t crc = 0;
    for (const uint32_t v : {MAGIC, STATE_VERSION}) {
        io.write(&v, sizeof(v));
        crc = xq_crc32(crc, &v, sizeof(v));
    }
    xq_section_writer out;
    header head;
    head.whole    = whole;
    head.n_stream = whole ? n_stream : 0;
    head.kv_size  = whole ? kv_size : 0;
    head.n_tiles  = (uint32_t) list.size();
    head.identity = identity();
    for (const auto & t : list) {
        head.n_tokens += (uint32_t) t.count();
    }
    head.move(out);
    for (const auto & steps : metric()) {
        out.bytes(steps.data(), steps.size());
    }
    const std::string text = fingerprint();
    out.bytes(text.data(), text.size());
    out.send(io, crc);
    for (auto & t : list) {
        const int page = tiles[t.stream].page((int) t.tile);
        if (!t.sealed && page < 0) {
            throw std::runtime_error("xquant: a tile has neither codes nor a page");
        }
        for (const auto & l : layers) {
            if (t.sealed) {
                t.codes.push_back(xq_get_codes(l, t.stream, (int) t.tile));
            } else {
                t.rows.push_back(xq_get_page(l, t.stream, page));
            }
        }
        if (!whole) {
            t.stream = t.tile = 0;
        }
        xq_put_tile(out, layers, t, whole);
        out.send(io, crc);
        t = xq_saved_tile{}; // one tile at a time is in memory
    }
}

// Everything a state holds, or an exception: the cache is not touched.
xq_saved_tiles xq_cache::read_checked(llama_io_read_i & io, bool whole, std::vector<xq_metric_steps> & of) const {
    uint32_t crc = 0, magic = 0, version = 0;
    io.read(&magic, sizeof(magic));
    if (magic == OLD_MAGIC) {
        throw std::runtime_error("it was saved by an older release, without checksums");
    }
    if (magic != MAGIC) {
        throw std::runtime_error("it is no session of a packed cache");
    }
    io.read(&version, sizeof(version));
    if (version != STATE_VERSION) {
        throw std::runtime_error("it has version " + std::to_string(version) + " and this release reads " +
                                 std::to_string(STATE_VERSION));
    }
    crc = xq_crc32(xq_crc32(crc, &magic, sizeof(magic)), &version, sizeof(version));

    of = metric();
    size_t n_steps = 0;
    for (const auto & steps : of) {
        n_steps += steps.size();
    }
    xq_section_reader in(io, crc, 4096 + 2*fingerprint().size() + n_steps);
    header head;
    head.move(in);
    if (in.left() < n_steps) {
        throw std::runtime_error("it was saved with other KV settings or another model");
    }
    for (auto & steps : of) {
        in.bytes(steps.data(), steps.size());
    }
    std::string text(in.left(), ' ');
    in.bytes(&text[0], text.size());
    if (text != fingerprint()) {
        throw std::runtime_error("it was saved with other KV settings or another model");
    }
    for (const auto & steps : of) {
        for (const uint8_t step : steps) {
            if (step > XQ_METRIC_STEPS) {
                throw std::runtime_error("it is damaged: a factor of keys that cannot be");
            }
        }
    }
    if (!(head.identity == identity())) {
        throw std::runtime_error("it was saved with another model: the same shapes and other weights");
    }
    if (head.whole != (whole ? 1u : 0u)) {
        throw std::runtime_error(whole ? "it holds one sequence, no whole context"
                                       : "it holds a whole context, not one sequence");
    }
    if (whole && head.n_stream != n_stream) {
        throw std::runtime_error("it was saved with another number of streams");
    }
    const uint32_t most = kv_size*(whole ? n_stream : 1);
    if (head.n_tokens > most || head.n_tiles > head.n_tokens) {
        throw std::runtime_error("it has " + std::to_string(head.n_tokens) + " tokens and this context holds " +
                                 std::to_string(most));
    }
    xq_saved_tiles list;
    uint32_t n_tokens = 0;
    for (uint32_t t = 0; t < head.n_tiles; ++t) {
        xq_section_reader section(io, crc, xq_saved_tile_limit(layers));
        list.push_back(xq_take_tile(section, layers, whole, n_seq_max));
        n_tokens += (uint32_t) list.back().count();
        if (list.back().stream >= (whole ? n_stream : 1)) {
            throw std::runtime_error("it is damaged: a tile of no stream");
        }
    }
    if (n_tokens != head.n_tokens) {
        throw std::runtime_error("it is damaged: the number of tokens does not fit");
    }
    return list;
}

void xq_cache::state_read(llama_io_read_i & io, std::vector<llama_kv_cells> & all, int seq_id, uint32_t stream) {
    const auto empty = [&] {
        for (uint32_t s = 0; s < n_stream; ++s) {
            for (uint32_t i = 0; seq_id != -1 && i < all[s].size(); ++i) {
                if (all[s].seq_has(i, seq_id)) {
                    all[s].seq_rm(i, seq_id);
                }
            }
            if (seq_id == -1) {
                all[s].reset();
                tiles[s].forget();
            } else {
                tiles[s].drop_empty(all[s]);
            }
        }
    };
    try {
        std::vector<xq_metric_steps> of;
        xq_saved_tiles list = read_checked(io, seq_id == -1, of);
        adopt(of, all, seq_id);
        empty();
        for (uint32_t s = 0; s < n_stream; ++s) {
            const uint32_t to = seq_id == -1 ? s : stream;
            xq_saved_tiles mine;
            for (auto & t : list) {
                if (t.stream == s) {
                    mine.push_back(std::move(t));
                    t.stream = n_stream;
                }
            }
            if (!mine.empty()) {
                const bool joined = seq_id != -1 && join_sparse(mine, all[to], seq_id, to);
                const std::vector<int> at = fit(mine, all[to], seq_id == -1, to);
                put(mine, at, all[to], joined ? -1 : seq_id, to);
            }
        }
    } catch (const std::exception & e) {
        empty();
        xq_set_error(std::string("xquant: cannot restore the session: ") + e.what());
        throw std::runtime_error(xq_error());
    }
}
