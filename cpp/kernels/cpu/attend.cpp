#include "kernels/cpu/attend.h"

#include "ggml.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace {

constexpr int   BLOCK_ROWS = 64;    // query rows (tokens x heads of a KV head) that visit a tile together
constexpr float NEG_INF    = -std::numeric_limits<float>::infinity();
constexpr uint16_t F16_NEG_INF = 0xFC00;

int block_tokens(int n_head, int n_head_kv) { return std::max(1, BLOCK_ROWS / (n_head / n_head_kv)); }

int strip_lanes(const xq_side & side, int g) { return g + 1 < side.strips ? XQ_LANES : side.lanes_last; }

// A slope for every head, as ggml's soft_max_ext defines ALiBi.
float alibi_slope(float max_bias, int n_head, int head) {
    if (max_bias <= 0.0f) {
        return 1.0f;
    }
    const int n2 = 1 << (int) std::floor(std::log2((float) n_head));
    return head < n2 ? std::pow(2.0f, -max_bias * (float) (head + 1) / (float) n2)
                     : std::pow(2.0f, -max_bias * 0.5f * (float) (2*(head - n2) + 1) / (float) n2);
}

float exp_from(float x, float top) { return x > NEG_INF ? (x == top ? 1.0f : std::exp(x - top)) : 0.0f; }

// Fold a partial softmax (o, top, sum) into another. Chunks are folded in tile order by one thread or, later, from
// many threads' results by xq_combine: the same steps, so the same bits.
void fold(float * into, float & into_top, float & into_sum, const float * o, float top, float sum, int dv) {
    const float next = std::max(into_top, top);
    const float keep = exp_from(into_top, next), add = exp_from(top, next);
    for (int i = 0; i < dv; ++i) {
        into[i] = into[i]*keep + o[i]*add;
    }
    into_sum = into_sum*keep + sum*add;
    into_top = next;
}

// Divide by the weights' sum; a sink is one more weight without a value. A row that sees nothing is zero.
void normalise(float * o, float top, float sum, float sink, float * out, int dv) {
    const float next  = std::max(top, sink);
    const float keep  = exp_from(top, next);
    const float total = sum*keep + exp_from(sink, next);
    const float f     = total == 0.0f ? 0.0f : keep/total; // NaN if the row sees one
    for (int i = 0; i < dv; ++i) {
        out[i] = o[i]*f;
    }
}

constexpr int CHUNK = XQ_CHUNK_TILES*XQ_TILE; // cells of a chunk
// Tiles whose keys are read together: one's multipliers are made ready while another's wait for each other.
constexpr int SOME = 2;

void prefetch(const void * p, size_t bytes) {
#if defined(__GNUC__)
    __asm__ volatile(""); // or GCC 12 takes this for a function without effects, and drops the call
    for (size_t i = 0; i < bytes; i += 64) {
        __builtin_prefetch((const char *) p + i, 0, 2); // as far as the second level
    }
#else
    (void) p; (void) bytes;
#endif
}

// Per-thread scratch, carved from one allocation that lives as long as the thread.
struct scratch {
    float * q;      // [rows][xq_query_floats(dk)]
    float * s;      // [rows][CHUNK]  logits of the chunk at hand, then weights
    float * o;      // [rows][dv padded to 32]  output of the chunk at hand, not yet divided by its sum
    float * top;    // [rows]  its largest logit
    float * sum;    // [rows]  its sum of weights
    float * all;    // [rows][dv padded], with all_top and all_sum: chunks folded so far
    float * all_top;
    float * all_sum;
    float * k;      // [dk][32]  one tile's keys in f32
    int dk_pad, dv_pad, rows;

    static size_t floats(int rows, int dk_pad, int dv_pad) {
        return (size_t) rows*(dk_pad + CHUNK + 2*dv_pad + 4) + (size_t) dk_pad*XQ_LANES;
    }
    scratch(int rows, int dk, int dv) : dk_pad(xq_query_floats(dk)), dv_pad((dv + 31) & ~31), rows(rows) {
        static thread_local std::vector<float> memory;
        memory.resize(std::max(memory.size(), floats(rows, dk_pad, dv_pad)));
        float * p = memory.data();
        auto take = [&p](size_t n) { float * r = p; p += n; return r; };
        q = take((size_t) rows*dk_pad); s = take((size_t) rows*CHUNK);
        o = take((size_t) rows*dv_pad); top = take(rows); sum = take(rows);
        all = take((size_t) rows*dv_pad); all_top = take(rows); all_sum = take(rows);
        k = take((size_t) dk_pad*XQ_LANES);
    }
};

// A KV head's keys or values in all tiles of its stream.
struct packed_head {
    const uint32_t * codes; // of tile 0
    const uint8_t  * meta;
    size_t code_bytes, meta_bytes, heads;

    packed_head(const uint32_t * codes, const uint8_t * meta, const xq_side & side, int heads)
        : codes(codes), meta(meta), code_bytes(sizeof(uint32_t)*xq_head_words(side)), meta_bytes(xq_head_meta_bytes(side)), heads(heads) {}

    const uint32_t * codes_of(int tile) const { return codes + tile*heads*code_bytes/sizeof(uint32_t); }
    const uint8_t  * meta_of(int tile) const { return meta + tile*heads*meta_bytes; }

    void prefetch_tile(int tile) const {
        prefetch(codes_of(tile), code_bytes);
        prefetch(meta_of(tile), meta_bytes);
    }

    // Bit i of which: tile first + i.
    xq_sealed_tiles list(int first, unsigned which) const {
        xq_sealed_tiles out;
        for (int i = 0; which; ++i, which >>= 1) {
            if (which & 1) {
                out.codes[out.n] = codes_of(first + i);
                out.meta[out.n]  = meta_of(first + i);
                out.at[out.n++]  = i*XQ_TILE;
            }
        }
        return out;
    }
};

// One KV head, a block of query tokens, chunks of tiles. What a row computes never depends on which other rows
// are in the block, so results are the same however a prompt is cut.
class block {
public:
    block(const xq_cpu_kernels & kern, const xq_attend_args & a, int stream, int head_kv, int t0, int t1)
        : kern(kern), a(a), L(a.layer), group(a.n_head / L.n_head_kv), head_kv(head_kv),
          page_stream(a.table[0] + stream), tokens(t1 - t0), rows(tokens*group),
          k(L.k_tile(page_stream, 0, head_kv), L.k_tile_meta(page_stream, 0, head_kv), L.k, L.n_head_kv),
          v(L.v_tile(page_stream, 0, head_kv), L.v_tile_meta(page_stream, 0, head_kv), L.v, L.n_head_kv), w(std::max(BLOCK_ROWS, group), L.dk, L.dv) {
        const int n_tps = a.n_tokens / a.n_stream;
        token0 = stream*n_tps + t0;
        mask   = a.mask + stream*a.mask_stream + t0*a.mask_token;
        n_tiles = a.table[1];
        qpos  = a.table + XQ_TABLE_HEAD + token0;
        tiles = a.table + xq_table_tiles_at(a.n_tokens) + (size_t) stream*n_tiles*XQ_TILE_INTS;

        const float scale = a.softcap != 0.0f ? a.scale / a.softcap : a.scale;
        for (int r = 0; r < rows; ++r) {
            const float * src = a.q + (token0 + r/group)*a.q_token + (head_kv*group + r%group)*a.q_head;
            float * dst = w.q + (size_t) r*w.dk_pad;
            for (int i = 0; i < L.dk; ++i) {
                dst[i] = src[i]*scale;
            }
            std::fill(dst + L.dk, dst + w.dk_pad, 0.0f);
        }
    }

    // Scores of the chunk's tiles, softmax over all of them, then values.
    void run(int chunk) {
        first = chunk*XQ_CHUNK_TILES;
        n     = std::min(XQ_CHUNK_TILES, std::min(n_tiles, (a.n_kv + XQ_TILE - 1)/XQ_TILE) - first);
        read_forms();
        score_packed();
        score_pages();
        softmax();
        add_values();
    }

    void clear() {
        std::fill(w.all_top, w.all_top + rows, NEG_INF);
        std::fill(w.all_sum, w.all_sum + rows, 0.0f);
        std::memset(w.all, 0, sizeof(float)*rows*w.dv_pad);
    }

    void fold_chunk() {
        for (int r = 0; r < rows; ++r) {
            fold(w.all + (size_t) r*w.dv_pad, w.all_top[r], w.all_sum[r], w.o + (size_t) r*w.dv_pad, w.top[r], w.sum[r], L.dv);
        }
    }

    void write_chunk(int chunk) const {
        for (int r = 0; r < rows; ++r) {
            float * out = a.out + ((size_t) chunk*a.n_tokens*a.n_head + row_at(r))*(L.dv + 2);
            std::memcpy(out, w.o + (size_t) r*w.dv_pad, sizeof(float)*L.dv);
            out[L.dv]     = w.top[r];
            out[L.dv + 1] = w.sum[r];
        }
    }

    void write_result() const {
        for (int r = 0; r < rows; ++r) {
            const float sink = a.sinks ? a.sinks[head_kv*group + r%group] : NEG_INF;
            float * out = a.out + row_at(r)*L.dv;
            normalise(w.all + (size_t) r*w.dv_pad, w.all_top[r], w.all_sum[r], sink, out, L.dv);
            if (L.v.rot) {
                kern.rotate(out, L.dv, L.v.rot);
            }
        }
    }

private:
    size_t row_at(int r) const { return (size_t) (token0 + r/group)*a.n_head + head_kv*group + r%group; }

    // How tokens read the chunk's tiles: bit i stands for tile first + i. A tile that no token of the block may see
    // counts as not there.
    void read_forms() {
        std::fill(packed, packed + tokens, 0);
        std::fill(paged,  paged  + tokens, 0);
        for (int i = 0; i < n; ++i) {
            const int page = tiles[(first + i)*XQ_TILE_INTS], from = tiles[(first + i)*XQ_TILE_INTS + 1];
            if ((page < 0 && from == XQ_NOT_SEALED) || !visible(first + i)) {
                continue;
            }
            for (int t = 0; t < tokens; ++t) {
                const int form = xq_tile_read(page, from, qpos[t]);
                packed[t] |= (form == XQ_READ_CODES ? 1u : 0u) << i;
                paged [t] |= (form == XQ_READ_PAGE  ? 1u : 0u) << i;
            }
        }
    }

    // Tokens that read tiles in the same form are neighbours (positions ascend): call f(key, r0, n) for runs of rows whose
    // tokens have the same key, unless that is 0.
    template <class Key, class F> void each_run(Key key, F f) {
        for (int t0 = 0; t0 < tokens;) {
            const unsigned k = key(t0);
            int t1 = t0 + 1;
            while (t1 < tokens && key(t1) == k) {
                ++t1;
            }
            if (k != 0) {
                f(k, t0*group, (t1 - t0)*group);
            }
            t0 = t1;
        }
    }

    // A head's tiles lie apart by those of the other heads, which no hardware prefetcher follows: without this, a third of
    // a decode step's attention is waiting for codes (SmolLM2, 8192 tokens). A chunk ahead was better than a tile ahead, and
    // a few tiles at a time, between other work, better than a chunk at once: a core waits for some 20 lines at a time.
    void prefetch_keys(int tile)   const { prefetch_side(tile, k, L.k_pages, L.k_row, L.dk); }
    void prefetch_values(int tile) const { prefetch_side(tile, v, L.v_pages, L.v_row, L.dv); }
    void prefetch_side(int tile, const packed_head & side, const uint16_t * pages, size_t row, int dim) const {
        if (tile >= n_tiles) {
            return;
        }
        const int page = tiles[tile*XQ_TILE_INTS], form = xq_tile_read(page, tiles[tile*XQ_TILE_INTS + 1], qpos[tokens - 1]);
        if (form == XQ_READ_CODES) {
            side.prefetch_tile(tile);
        }
        for (int t = 0; form == XQ_READ_PAGE && t < XQ_TILE; ++t) {
            prefetch(pages + (page_stream*L.page_stream + (size_t) page*XQ_TILE + t)*row + (size_t) head_kv*dim, sizeof(uint16_t)*dim);
        }
    }

    int cells(int tile) const { return std::min(XQ_TILE, a.n_kv - tile*XQ_TILE); }

    bool visible(int tile) const {
        const int n = cells(tile);
        for (int t = 0; t < tokens; ++t) {
            const uint16_t * m = mask + t*a.mask_token + (size_t) tile*XQ_TILE;
            for (int l = 0; l < n; ++l) {
                if (m[l] != F16_NEG_INF) {
                    return true;
                }
            }
        }
        return false;
    }

    void score_packed() {
        for (int i = 0; i < n; i += SOME) {
            for (int j = i; j < i + SOME; ++j) {
                prefetch_keys(first + XQ_CHUNK_TILES + j);
            }
            each_run([&](int t) { return packed[t] & ((1u << SOME) - 1) << i; }, [&](unsigned which, int r0, int many) {
                const xq_sealed_tiles keys = k.list(first, which);
                for (int r = r0; r < r0 + many; r += XQ_MOST_ROWS) {
                    const int nr = std::min(XQ_MOST_ROWS, r0 + many - r);
                    uint64_t coarse[XQ_CHUNK_TILES];
                    kern.key_scores(L.k, keys, w.q + (size_t) r*w.dk_pad, w.dk_pad, nr, w.s + (size_t) r*CHUNK, CHUNK,
                                    coarse);
                    if (L.k.strips > 1) {
                        add_strips(keys, r, nr, coarse);
                    }
                    for (int j = 0; j < keys.n; ++j) {
                        exact_scores(keys, j, r, coarse[j]);
                    }
                }
            });
        }
    }

    // The scores of the strips behind the first, of rows r0 and on. A row that is too coarse in one of them is so as a
    // whole.
    void add_strips(const xq_sealed_tiles & keys, int r0, int many, uint64_t * coarse) {
        float part[XQ_MOST_ROWS*SOME*XQ_TILE];
        for (int g = 1; g < L.k.strips; ++g) {
            xq_sealed_tiles strip = keys;
            for (int j = 0; j < keys.n; ++j) {
                strip.codes[j] += (size_t) g*xq_side_words(L.k);
                strip.meta[j]  += xq_meta_at(L.k, g);
                strip.at[j]     = j*XQ_TILE;
            }
            uint64_t also[XQ_CHUNK_TILES];
            const float * q = w.q + (size_t) r0*w.dk_pad + g*L.k.rows;
            kern.key_scores(L.k, strip, q, w.dk_pad, many, part, SOME*XQ_TILE, also);
            for (int j = 0; j < keys.n; ++j) {
                coarse[j] |= also[j];
                for (int r = 0; r < many; ++r) {
                    float * s = w.s + (size_t) (r0 + r)*CHUNK + keys.at[j];
                    for (int l = 0; l < XQ_TILE; ++l) {
                        s[l] += part[(r*SOME + j)*XQ_TILE + l];
                    }
                }
            }
        }
    }

    // Rows for which key_scores' integers are too coarse: bit r stands for row j + r.
    void exact_scores(const xq_sealed_tiles & keys, int i, int j, uint64_t which) {
        if (which == 0) {
            return;
        }
        for (int g = 0; g < L.k.strips; ++g) {
            kern.unpack_strip(L.k, keys.codes[i] + (size_t) g*xq_side_words(L.k), keys.meta[i] + xq_meta_at(L.k, g),
                              w.k + g*L.k.rows*XQ_LANES);
        }
        for (int r = j; which; ++r, which >>= 1) {
            if (which & 1) {
                score_in_f32(r, 1, keys.at[i]);
            }
        }
    }

    void score_pages() {
        for (int i = 0; i < n; ++i) {
            const int page = tiles[(first + i)*XQ_TILE_INTS];
            bool there = false; // in w.k
            each_run([&](int t) { return paged[t] >> i & 1u; }, [&](unsigned, int r0, int many) {
                if (!there) {
                    kern.transpose_f16(L.k_page(page_stream, page, head_kv), L.k_row, L.dk, w.k);
                    there = true;
                }
                score_in_f32(r0, many, i*XQ_TILE);
            });
        }
    }

    void score_in_f32(int r0, int many, int at) {
        float * s = w.s + (size_t) r0*CHUNK + at;
        for (int r = 0; r < many; ++r) {
            std::fill(s + (size_t) r*CHUNK, s + (size_t) r*CHUNK + XQ_TILE, 0.0f);
        }
        kern.gemm32(w.q + (size_t) r0*w.dk_pad, w.dk_pad, many, w.k, L.dk, s, CHUNK);
    }

    void softmax() {
        static const uint16_t zeros[CHUNK] = {0};
        const int there = std::min(n*XQ_TILE, a.n_kv - first*XQ_TILE);
        for (int t = 0; t < tokens; ++t) {
            // most of a long context is wholly visible: one comparison tells
            const uint16_t * m = mask + t*a.mask_token + (size_t) first*XQ_TILE;
            const bool masked = std::memcmp(m, zeros, sizeof(uint16_t)*there) != 0;
            for (int h = 0; h < group; ++h) {
                const int r = t*group + h;
                float * s = w.s + (size_t) r*CHUNK;
                fill_gaps(s, ((1u << n) - 1) & ~(packed[t] | paged[t]));
                if (a.softcap != 0.0f) {
                    cap(s);
                }
                if (masked) {
                    add_mask(s, m, there, alibi_slope(a.max_bias, a.n_head, head_kv*group + h));
                }
                std::fill(s + there, s + n*XQ_TILE, NEG_INF);
                for (int i = r*XQ_CHUNK_TILES/rows; i < (r + 1)*XQ_CHUNK_TILES/rows; ++i) {
                    prefetch_values(first + XQ_CHUNK_TILES + i);
                }
                w.top[r] = kern.softmax(s, n*XQ_TILE, w.sum + r);
            }
        }
    }

    void fill_gaps(float * s, unsigned tiles) const {
        for (; tiles; s += XQ_TILE, tiles >>= 1) {
            if (tiles & 1) {
                std::fill(s, s + XQ_TILE, NEG_INF);
            }
        }
    }

    void cap(float * s) const {
        for (int l = 0; l < n*XQ_TILE; ++l) {
            s[l] = s[l] > NEG_INF ? a.softcap*std::tanh(s[l]) : s[l];
        }
    }

    static void add_mask(float * s, const uint16_t * m, int there, float slope) {
        for (int l = 0; l < there; ++l) {
            if (m[l] != 0) {
                s[l] = m[l] == F16_NEG_INF ? NEG_INF : s[l] + slope*ggml_fp16_to_fp32(m[l]);
            }
        }
    }

    // A cell of a page that a row does not see has a weight of 0, but may hold anything: 0 times a NaN is a NaN. To look before
    // every product would cost more than to look at what came of them all.
    void add_values() {
        std::memset(w.o, 0, sizeof(float)*rows*w.dv_pad);
        add_packed();
        if (add_pages([this](int page, int r0, int many, int i) { add_page(page, r0, many, i); }) && !kern.finite(w.o, rows*w.dv_pad)) {
            std::memset(w.o, 0, sizeof(float)*rows*w.dv_pad);
            add_packed();
            add_pages([this](int page, int r0, int many, int i) { add_seen(page, r0, many, i); });
        }
    }

    void add_packed() {
        each_run([&](int t) { return packed[t]; }, [&](unsigned which, int r0, int many) {
            kern.add_values(L.v, v.list(first, which), w.s + (size_t) r0*CHUNK, CHUNK, many, w.o + (size_t) r0*w.dv_pad, w.dv_pad);
        });
    }

    // Returns whether there are any.
    template <class F> bool add_pages(F add) {
        bool some = false;
        for (int i = 0; i < n; ++i) {
            const int page = tiles[(first + i)*XQ_TILE_INTS];
            each_run([&](int t) { return paged[t] >> i & 1u; }, [&](unsigned, int r0, int many) {
                add(page, r0, many, i);
                some = true;
            });
        }
        return some;
    }

    void add_page(int page, int r0, int many, int at) { add_rows(L.v_page(page_stream, page, head_kv), L.v_row, r0, many, at); }

    // The same bits without the cells that a row does not see.
    void add_seen(int page, int r0, int many, int at) {
        const uint16_t * values = L.v_page(page_stream, page, head_kv);
        std::vector<uint16_t> seen((size_t) XQ_TILE*L.dv);
        for (int r = r0; r < r0 + many; ++r) {
            std::fill(seen.begin(), seen.end(), (uint16_t) 0);
            for (int t = 0; t < XQ_TILE; ++t) {
                if (w.s[(size_t) r*CHUNK + at*XQ_TILE + t] != 0.0f) {
                    std::copy_n(values + t*L.v_row, L.dv, seen.begin() + (size_t) t*L.dv);
                }
            }
            add_rows(seen.data(), L.dv, r, 1, at);
        }
    }

    void add_rows(const uint16_t * values, size_t ld, int r0, int many, int at) {
        for (int g = 0; g < L.v.strips; ++g) {
            kern.gemm32_f16(w.s + (size_t) r0*CHUNK + at*XQ_TILE, CHUNK, many, values + g*XQ_LANES, ld, XQ_TILE, strip_lanes(L.v, g),
                            w.o + (size_t) r0*w.dv_pad + g*XQ_LANES, w.dv_pad);
        }
    }

    const xq_cpu_kernels & kern;
    const xq_attend_args & a;
    const xq_layer_view  & L;
    const int group, head_kv, page_stream, tokens, rows;
    const packed_head k, v;
    int token0, n_tiles;
    int first, n;                                   // the chunk's tiles
    uint8_t packed[BLOCK_ROWS], paged[BLOCK_ROWS];  // by token
    const uint16_t * mask;
    const int32_t  * qpos;
    const int32_t  * tiles;
    scratch w;
};

} // namespace

size_t xq_attend_scratch(int dk, int dv) {
    return sizeof(float)*scratch::floats(BLOCK_ROWS, xq_query_floats(dk), (dv + 31) & ~31);
}

static int n_chunks(int n_kv) { return (n_kv + XQ_TILE*XQ_CHUNK_TILES - 1) / (XQ_TILE*XQ_CHUNK_TILES); }

int xq_attend_parts(int n_tokens, int n_stream, int n_head_kv, int n_head, int n_kv, int dv) {
    constexpr size_t ENOUGH = 32;             // work items for many threads
    constexpr size_t MOST   = 4*1024*1024/4;  // floats of partial results: 4 MiB
    const int step     = block_tokens(n_head, n_head_kv);
    const size_t items = (size_t) n_stream*n_head_kv*((n_tokens/n_stream + step - 1)/step);
    const size_t parts = (size_t) n_chunks(n_kv);
    return items < ENOUGH && parts*n_tokens*n_head*(dv + 2) <= MOST ? (int) parts : 1;
}

void xq_attend(const xq_cpu_kernels & kern, const xq_attend_args & a, int ith, int nth) {
    const int n_tps  = a.n_tokens / a.n_stream;
    const int step   = block_tokens(a.n_head, a.layer.n_head_kv);
    const int blocks = (n_tps + step - 1) / step;
    const int items  = a.n_stream*a.layer.n_head_kv*blocks*a.n_parts;
    // A thread has neighbouring chunks, and in them all heads, one after the other: the order of their tiles in memory.
    const int begin = (int) ((int64_t) items*ith/nth), end = (int) ((int64_t) items*(ith + 1)/nth);
    for (int i = begin; i < end; ++i) {
        const int head   = i % a.layer.n_head_kv, rest = i / a.layer.n_head_kv;
        const int part   = rest % a.n_parts, at = rest / a.n_parts;
        const int stream = at / blocks, t0 = (at % blocks)*step;
        block b(kern, a, stream, head, t0, std::min(t0 + step, n_tps));
        if (a.n_parts > 1) {
            b.run(part);
            b.write_chunk(part);
            continue;
        }
        b.clear();
        for (int chunk = 0; chunk < n_chunks(a.n_kv); ++chunk) {
            b.run(chunk);
            b.fold_chunk();
        }
        b.write_result();
    }
}

void xq_combine(const xq_cpu_kernels & kern, const float * in, float * out, const float * sinks, int dv, int rot, int n_head,
                int n_tokens, int n_parts, int ith, int nth) {
    const int rows = n_tokens*n_head;
    const size_t plane = (size_t) rows*(dv + 2);
    for (int r = ith; r < rows; r += nth) {
        float * o = out + (size_t) r*dv;
        float top = NEG_INF, sum = 0.0f;
        std::fill(o, o + dv, 0.0f);
        for (int part = 0; part < n_parts; ++part) {
            const float * p = in + part*plane + (size_t) r*(dv + 2);
            fold(o, top, sum, p, p[dv], p[dv + 1], dv);
        }
        normalise(o, top, sum, sinks ? sinks[r % n_head] : NEG_INF, o, dv);
        if (rot) {
            kern.rotate(o, dv, rot);
        }
    }
}
