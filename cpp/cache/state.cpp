// Session state: whole tiles as they are, so that a saved session is as small as the cache.
//
//   u32 magic, string fingerprint
//   per stream: u32 number of tiles, then per tile
//     i32 from (XQ_NOT_SEALED: residual)
//     per cell: i32 pos (-1: no data); if >= 0: llama_kv_cell_ext, u32 number of sequences, i32 ids
//     per layer: own codes and metadata of all heads, or 32 page rows of keys and of values
#include "cache/cache.h"

#include "format/xq_table.h"
#include "llama-io.h"

#include <stdexcept>

namespace {

constexpr uint32_t MAGIC = 0x31535158; // "XQS1"

template <class T> void put(llama_io_write_i & io, const T & v) { io.write(&v, sizeof(v)); }
template <class T> T    get(llama_io_read_i  & io) { T v; io.read(&v, sizeof(v)); return v; }

// Where one tile's bytes lie: f(tensor, offset, size) for each run.
template <class F>
void for_codes(const xq_layer & l, uint32_t stream, int tile, F && f) {
    const size_t heads = l.plan.shape.n_head_kv;
    const auto run = [&](ggml_tensor * t, size_t base, size_t bytes) { f(t, stream*t->nb[1] + base + tile*bytes, bytes); };
    if (l.owns_k()) { run(l.planes.k_codes, 0, heads*xq_head_words(l.plan.k)*4); }
    if (l.owns_v()) { run(l.planes.v_codes, 0, heads*xq_head_words(l.plan.v)*4); }
    run(l.planes.meta, 0,               heads*xq_head_meta_bytes(l.plan.k));
    run(l.planes.meta, l.k_meta_size(), heads*xq_head_meta_bytes(l.plan.v));
}

template <class F>
void for_pages(const xq_layer & l, uint32_t stream, int page, F && f) {
    for (ggml_tensor * t : {l.planes.k_pages, l.planes.v_pages}) {
        f(t, stream*t->nb[2] + (size_t) page*XQ_TILE*t->nb[1], XQ_TILE*t->nb[1]);
    }
}

bool wanted(const llama_kv_cells & cells, uint32_t i, int seq_id) {
    return i < cells.size() && !cells.is_empty(i) && (seq_id == -1 || cells.seq_has(i, seq_id));
}

} // namespace

std::string xq_cache::fingerprint() const {
    std::string s = "xquant " + std::to_string(XQ_FORMAT_VERSION) + " " + config.text();
    for (const auto & l : layers) {
        const auto & p = l.plan;
        for (const int v : {p.shape.il, p.shape.n_head_kv, p.shape.dk, p.shape.dv, p.k.bits, p.v.bits, p.k_leader, p.v_leader}) {
            s += " " + std::to_string(v);
        }
    }
    return s;
}

void xq_cache::state_write(llama_io_write_i & io, const std::vector<llama_kv_cells> & all, int seq_id) const {
    put(io, MAGIC);
    io.write_string(fingerprint());
    put(io, n_stream);
    for (uint32_t s = 0; s < n_stream; ++s) {
        const llama_kv_cells & cells = all[s];
        const xq_tiles & of = tiles[s];
        std::vector<int> list;
        for (int t = 0; t < of.n_tiles(); ++t) {
            bool any = false;
            for (uint32_t i = t*XQ_TILE; i < (t + 1u)*XQ_TILE; ++i) {
                any = any || wanted(cells, i, seq_id);
            }
            if (any) {
                list.push_back(t);
            }
        }
        put(io, (uint32_t) list.size());
        for (const int t : list) {
            put(io, (int32_t) of.from(t));
            for (uint32_t i = t*XQ_TILE; i < (t + 1u)*XQ_TILE; ++i) {
                if (!wanted(cells, i, seq_id)) {
                    put(io, (int32_t) -1);
                    continue;
                }
                put(io, (int32_t) cells.pos_get(i));
                put(io, cells.ext_get(i));
                std::vector<int32_t> ids;
                for (llama_seq_id q = 0; q < (llama_seq_id) n_seq_max; ++q) {
                    if (cells.seq_has(i, q) && (seq_id == -1 || q == seq_id)) {
                        ids.push_back(q);
                    }
                }
                put(io, (uint32_t) ids.size());
                io.write(ids.data(), ids.size()*sizeof(int32_t));
            }
            const auto write = [&](ggml_tensor * tensor, size_t at, size_t n) { io.write_tensor(tensor, at, n); };
            for (const auto & l : layers) {
                if (of.sealed(t)) {
                    for_codes(l, s, t, write);
                } else {
                    for_pages(l, s, of.page(t), write);
                }
            }
        }
    }
}

void xq_cache::read_stream(llama_io_read_i & io, llama_kv_cells & cells, int seq_id, uint32_t stream) {
    xq_tiles & of = tiles[stream];
    const uint32_t n = get<uint32_t>(io);
    int next = 0;
    for (uint32_t j = 0; j < n; ++j) {
        const auto in_use = [&](int t) {
            for (uint32_t i = t*XQ_TILE; i < std::min<uint32_t>(cells.size(), (t + 1)*XQ_TILE); ++i) {
                if (!cells.is_empty(i)) { return true; }
            }
            return false;
        };
        while (next < of.n_tiles() && in_use(next)) {
            ++next;
        }
        if (next == of.n_tiles()) {
            throw std::runtime_error("the session has more tokens than this context holds");
        }
        const int tile = next++;
        const int32_t from = get<int32_t>(io);
        for (uint32_t i = tile*XQ_TILE; i < (tile + 1u)*XQ_TILE; ++i) {
            const int32_t pos = get<int32_t>(io);
            if (pos < 0) {
                continue;
            }
            const auto ext = get<llama_kv_cell_ext>(io);
            const uint32_t n_ids = get<uint32_t>(io);
            if (i >= cells.size() || n_ids == 0 || n_ids > n_seq_max) {
                throw std::runtime_error("the session has more tokens or sequences than this context holds");
            }
            cells.pos_set(i, pos);
            cells.ext_set(i, ext);
            for (uint32_t q = 0; q < n_ids; ++q) {
                const int32_t id = get<int32_t>(io);
                const int32_t to = seq_id == -1 ? id : seq_id;
                if (to < 0 || to >= (int32_t) n_seq_max) {
                    throw std::runtime_error("the session names a sequence that this context does not have");
                }
                if (!cells.seq_has(i, to)) {
                    cells.seq_add(i, to);
                }
            }
        }
        int page = -1;
        if (from == XQ_NOT_SEALED) {
            page = of.restore_residual(tile);
            if (page < 0) {
                throw std::runtime_error("the session needs more full-precision pages than this context has free");
            }
        } else {
            of.restore_sealed(tile, from);
        }
        const auto read = [&](ggml_tensor * tensor, size_t at, size_t size) { io.read_tensor(tensor, at, size); };
        for (const auto & l : layers) {
            if (page < 0) {
                for_codes(l, stream, tile, read);
            } else {
                for_pages(l, stream, page, read);
            }
        }
    }
    if (!of.has_room(config.max_ubatch)) {
        throw std::runtime_error("the session leaves no full-precision pages for new tokens");
    }
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
    empty();
    try {
        if (get<uint32_t>(io) != MAGIC) {
            throw std::runtime_error("not a session of a packed cache");
        }
        std::string saved;
        io.read_string(saved);
        if (saved != fingerprint()) {
            throw std::runtime_error("the session was saved with other KV settings or another model");
        }
        if (get<uint32_t>(io) != n_stream) {
            throw std::runtime_error("the session was saved with another number of streams");
        }
        for (uint32_t s = 0; s < n_stream; ++s) {
            const uint32_t to = seq_id == -1 ? s : stream;
            read_stream(io, all[to], seq_id, to);
        }
    } catch (const std::exception & e) {
        empty();
        xq_set_error(std::string("xquant: cannot restore the session: ") + e.what());
        throw std::runtime_error(xq_error());
    }
}
