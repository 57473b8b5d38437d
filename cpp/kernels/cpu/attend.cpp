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
    const float f     = total > 0.0f ? keep/total : 0.0f;
    for (int i = 0; i < dv; ++i) {
        out[i] = o[i]*f;
    }
}

constexpr int CHUNK = XQ_CHUNK_TILES*XQ_TILE; // cells of a chunk

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
    float * q;      // [rows][dk padded to 32]
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
    scratch(int rows, int dk, int dv) : dk_pad((dk + 31) & ~31), dv_pad((dv + 31) & ~31), rows(rows) {
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

// One KV head, a block of query tokens, chunks of tiles. What a row computes never depends on which other rows
// are in the block, so results are the same however a prompt is cut.
class block {
public:
    block(const xq_cpu_kernels & kern, const xq_attend_args & a, int stream, int head_kv, int t0, int t1)
        : kern(kern), a(a), L(a.layer), group(a.n_head / L.n_head_kv), head_kv(head_kv), stream(stream),
          tokens(t1 - t0), w(std::max(BLOCK_ROWS, group), L.dk, L.dv) {
        const int n_tps = a.n_tokens / a.n_stream;
        token0 = stream*n_tps + t0;
        mask   = a.mask + stream*a.mask_stream + t0*a.mask_token;
        page_stream = a.table[0] + stream;
        n_tiles     = a.table[1];
        qpos  = a.table + XQ_TABLE_HEAD + token0;
        tiles = a.table + xq_table_tiles_at(a.n_tokens) + (size_t) stream*n_tiles*XQ_TILE_INTS;

        const float scale = a.softcap != 0.0f ? a.scale / a.softcap : a.scale;
        for (int r = 0; r < tokens*group; ++r) {
            const float * src = a.q + (token0 + r/group)*a.q_token + (head_kv*group + r%group)*a.q_head;
            float * dst = w.q + (size_t) r*w.dk_pad;
            for (int i = 0; i < w.dk_pad; ++i) {
                dst[i] = i < L.dk ? src[i]*scale : 0.0f;
            }
            w.all_top[r] = NEG_INF;
            w.all_sum[r] = 0.0f;
        }
        std::memset(w.all, 0, sizeof(float)*tokens*group*w.dv_pad);
    }

    // Scores of the chunk's tiles, softmax over all of them, then values.
    void run(int chunk) {
        const int rows = tokens*group, first = chunk*XQ_CHUNK_TILES;
        const int n = std::min(XQ_CHUNK_TILES, std::min(n_tiles, (a.n_kv + XQ_TILE - 1)/XQ_TILE) - first);
        for (int i = 0; i < n; ++i) {
            prefetch_tile(first + i + XQ_CHUNK_TILES);
            each_run(first + i, [&](int form, int page, int t0, int t1) { score(form, first + i, page, t0*group, (t1 - t0)*group, i); });
            keys_in_scratch = NONE;
        }
        for (int r = 0; r < rows; ++r) {
            to_logits(r, first, n);
            w.top[r] = kern.softmax(w.s + (size_t) r*CHUNK, n*XQ_TILE, w.sum + r);
        }
        std::memset(w.o, 0, sizeof(float)*rows*w.dv_pad);
        add_sealed(first, n);
        for (int i = 0; i < n; ++i) {
            each_run(first + i, [&](int form, int page, int t0, int t1) {
                if (form == XQ_READ_PAGE) {
                    add_page(page, t0*group, (t1 - t0)*group, i);
                }
            });
        }
    }

    void fold_chunk() {
        for (int r = 0; r < tokens*group; ++r) {
            fold(w.all + (size_t) r*w.dv_pad, w.all_top[r], w.all_sum[r], w.o + (size_t) r*w.dv_pad, w.top[r], w.sum[r], L.dv);
        }
    }

    void write_chunk(int chunk) const {
        for (int r = 0; r < tokens*group; ++r) {
            float * out = a.out + ((size_t) chunk*a.n_tokens*a.n_head + row_at(r))*(L.dv + 2);
            std::memcpy(out, w.o + (size_t) r*w.dv_pad, sizeof(float)*L.dv);
            out[L.dv]     = w.top[r];
            out[L.dv + 1] = w.sum[r];
        }
    }

    void write_result() const {
        for (int r = 0; r < tokens*group; ++r) {
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

    // Tokens that read a tile in the same form are neighbours (positions ascend): call f(form, page, t0, t1) for runs
    // of them. A tile that no token of the block may see counts as not there.
    template <class F> void each_run(int tile, F f) {
        const int page = tiles[tile*XQ_TILE_INTS], from = tiles[tile*XQ_TILE_INTS + 1];
        const bool there = (page >= 0 || from != XQ_NOT_SEALED) && visible(tile);
        for (int t0 = 0; t0 < tokens;) {
            const int form = there ? xq_tile_read(page, from, qpos[t0]) : XQ_READ_NONE;
            int t1 = t0 + 1;
            while (t1 < tokens && (!there || xq_tile_read(page, from, qpos[t1]) == form)) {
                ++t1;
            }
            f(form, page, t0, t1);
            t0 = t1;
        }
    }

    // A head's tiles lie apart by those of the other heads, which no hardware prefetcher follows: without this, a third of
    // a decode step's attention is waiting for codes (SmolLM2, 8192 tokens). A chunk ahead was better than a tile ahead.
    void prefetch_tile(int tile) const {
        if (tile >= n_tiles) {
            return;
        }
        const int page = tiles[tile*XQ_TILE_INTS];
        switch (xq_tile_read(page, tiles[tile*XQ_TILE_INTS + 1], qpos[tokens - 1])) {
            case XQ_READ_CODES:
                prefetch(L.k_tile(page_stream, tile, head_kv), sizeof(uint32_t)*xq_head_words(L.k));
                prefetch(L.k_tile_meta(page_stream, tile, head_kv), xq_head_meta_bytes(L.k));
                prefetch(L.v_tile(page_stream, tile, head_kv), sizeof(uint32_t)*xq_head_words(L.v));
                prefetch(L.v_tile_meta(page_stream, tile, head_kv), xq_head_meta_bytes(L.v));
                break;
            case XQ_READ_PAGE:
                for (int t = 0; t < XQ_TILE; ++t) {
                    prefetch(L.k_page(page_stream, page, head_kv) + t*L.k_row, sizeof(uint16_t)*L.dk);
                    prefetch(L.v_page(page_stream, page, head_kv) + t*L.v_row, sizeof(uint16_t)*L.dv);
                }
                break;
            default: break;
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

    void score(int form, int tile, int page, int r0, int n, int at) {
        float * s = w.s + (size_t) r0*CHUNK + at*XQ_TILE;
        const float * q = w.q + (size_t) r0*w.dk_pad;
        if (form == XQ_READ_CODES) {
            const uint32_t * codes = L.k_tile(page_stream, tile, head_kv);
            const uint8_t  * meta  = L.k_tile_meta(page_stream, tile, head_kv);
            for (int j = 0; j < n; j += XQ_MOST_ROWS) {
                const int some = std::min(XQ_MOST_ROWS, n - j);
                uint64_t coarse = kern.key_scores(L.k, codes, meta, q + (size_t) j*w.dk_pad, w.dk_pad, some, s + (size_t) j*CHUNK, CHUNK);
                for (int r = j; coarse; ++r, coarse >>= 1) {
                    if (coarse & 1) {
                        exact_score(codes, meta, q + (size_t) r*w.dk_pad, s + (size_t) r*CHUNK);
                    }
                }
            }
            return;
        }
        if (form == XQ_READ_PAGE && keys_in_scratch != PAGE) {
            kern.transpose_f16(L.k_page(page_stream, page, head_kv), L.k_row, L.dk, w.k);
            keys_in_scratch = PAGE;
        }
        for (int r = 0; r < n; ++r) {
            std::fill(s + (size_t) r*CHUNK, s + (size_t) r*CHUNK + XQ_TILE, form == XQ_READ_NONE ? NEG_INF : 0.0f);
        }
        if (form == XQ_READ_PAGE) {
            kern.gemm32(q, w.dk_pad, n, w.k, L.dk, s, CHUNK);
        }
    }

    // A row for which key_scores' integers are too coarse.
    void exact_score(const uint32_t * codes, const uint8_t * meta, const float * q, float * s) {
        if (keys_in_scratch != CODES) {
            kern.unpack_strip(L.k, codes, meta, w.k);
            keys_in_scratch = CODES;
        }
        std::memset(s, 0, sizeof(float)*XQ_TILE);
        kern.gemm32(q, w.dk_pad, 1, w.k, L.dk, s, CHUNK);
    }

    // Softcap and mask over a row's chunk. Most of a long context is wholly visible: one comparison tells.
    void to_logits(int r, int first, int n) {
        static const uint16_t zeros[CHUNK] = {0};
        float * s = w.s + (size_t) r*CHUNK;
        if (a.softcap != 0.0f) {
            for (int l = 0; l < n*XQ_TILE; ++l) {
                s[l] = s[l] > NEG_INF ? a.softcap*std::tanh(s[l]) : s[l];
            }
        }
        const uint16_t * m = mask + (r/group)*a.mask_token + (size_t) first*XQ_TILE;
        const int there = std::min(n*XQ_TILE, a.n_kv - first*XQ_TILE);
        if (std::memcmp(m, zeros, sizeof(uint16_t)*there) != 0) {
            const float slope = alibi_slope(a.max_bias, a.n_head, head_kv*group + r%group);
            for (int l = 0; l < there; ++l) {
                if (m[l] != 0) {
                    s[l] = m[l] == F16_NEG_INF ? NEG_INF : s[l] + slope*ggml_fp16_to_fp32(m[l]);
                }
            }
        }
        std::fill(s + there, s + n*XQ_TILE, NEG_INF);
    }

    // Tokens that read the same tiles packed are neighbours as well: a product for each run of them.
    void add_sealed(int first, int n) {
        unsigned packed[BLOCK_ROWS] = {}; // by token, bit i: reads tile first + i packed
        for (int i = 0; i < n; ++i) {
            each_run(first + i, [&](int form, int, int t0, int t1) {
                for (int t = t0; t < t1; ++t) {
                    packed[t] |= (form == XQ_READ_CODES ? 1u : 0u) << i;
                }
            });
        }
        for (int t0 = 0; t0 < tokens;) {
            int t1 = t0 + 1;
            while (t1 < tokens && packed[t1] == packed[t0]) {
                ++t1;
            }
            xq_value_tiles list;
            for (int i = 0; i < n; ++i) {
                if (packed[t0] >> i & 1) {
                    list.codes[list.n] = L.v_tile(page_stream, first + i, head_kv);
                    list.meta[list.n]  = L.v_tile_meta(page_stream, first + i, head_kv);
                    list.at[list.n++]  = i*XQ_TILE;
                }
            }
            if (list.n > 0) {
                kern.add_values(L.v, list, w.s + (size_t) t0*group*CHUNK, CHUNK, (t1 - t0)*group, w.o + (size_t) t0*group*w.dv_pad, w.dv_pad);
            }
            t0 = t1;
        }
    }

    void add_page(int page, int r0, int n, int at) {
        const uint16_t * values = L.v_page(page_stream, page, head_kv);
        for (int g = 0; g < L.v.strips; ++g) {
            kern.gemm32_f16(w.s + (size_t) r0*CHUNK + at*XQ_TILE, CHUNK, n, values + g*XQ_LANES, L.v_row, XQ_TILE, strip_lanes(L.v, g),
                            w.o + (size_t) r0*w.dv_pad + g*XQ_LANES, w.dv_pad);
        }
    }

    const xq_cpu_kernels & kern;
    const xq_attend_args & a;
    const xq_layer_view  & L;
    const int group, head_kv, stream, tokens;
    int token0, page_stream, n_tiles;
    enum { NONE, PAGE, CODES } keys_in_scratch = NONE; // what w.k holds of the tile
    const uint16_t * mask;
    const int32_t  * qpos;
    const int32_t  * tiles;
    scratch w;
};

} // namespace

size_t xq_attend_scratch(int dk, int dv) {
    return sizeof(float)*scratch::floats(BLOCK_ROWS, (dk + 31) & ~31, (dv + 31) & ~31);
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
