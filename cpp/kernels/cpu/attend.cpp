#include "kernels/cpu/attend.h"

#include "ggml.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace {

constexpr int   BLOCK_ROWS  = 64; // query rows (tokens x heads of a KV head) that share one unpacked tile
constexpr int   PACKED_ROWS = 8;  // up to this many rows read codes directly; above, unpacking once is cheaper
constexpr float NEG_INF     = -std::numeric_limits<float>::infinity();

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

// Per-thread scratch, carved from one allocation that lives as long as the thread.
struct scratch {
    float * q;      // [rows][dk padded to 32]
    float * m;      // [rows][max(dk, 32) padded]  multipliers of the packed path
    float * s;      // [rows][32]
    float * o;      // [rows][dv padded to 32]
    float * top;    // [rows]
    float * sum;    // [rows]
    float * k;      // [dk][32]       unpacked keys
    float * v;      // [strips][32][32] unpacked values
    float * mask;   // [tokens][32]
    int dk_pad, dv_pad, rows;

    static size_t floats(int rows, int dk_pad, int dv_pad) {
        return (size_t) rows*(2*dk_pad + XQ_LANES + dv_pad + 2 + XQ_LANES) + (size_t) (dk_pad + dv_pad)*XQ_LANES;
    }
    scratch(int rows, int dk, int dv) : dk_pad((dk + 31) & ~31), dv_pad((dv + 31) & ~31), rows(rows) {
        static thread_local std::vector<float> memory;
        memory.resize(std::max(memory.size(), floats(rows, dk_pad, dv_pad)));
        float * p = memory.data();
        auto take = [&p](size_t n) { float * r = p; p += n; return r; };
        q = take((size_t) rows*dk_pad); m = take((size_t) rows*dk_pad); s = take((size_t) rows*XQ_LANES);
        o = take((size_t) rows*dv_pad); top = take(rows); sum = take(rows);
        k = take((size_t) dk_pad*XQ_LANES); v = take((size_t) dv_pad*XQ_LANES); mask = take((size_t) rows*XQ_LANES);
    }
};

// One KV head, a block of query tokens, a range of tiles.
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
            w.top[r] = NEG_INF;
            w.sum[r] = 0.0f;
        }
        std::memset(w.o, 0, sizeof(float)*tokens*group*w.dv_pad);
    }

    void run(int tile0, int tile1) {
        for (int tile = tile0; tile < std::min(tile1, n_tiles); ++tile) {
            visit(tile);
        }
    }

    // Row r of the block: where its output goes.
    void finish(int split) const {
        for (int r = 0; r < tokens*group; ++r) {
            const int head  = head_kv*group + r%group;
            const size_t at = (size_t) (token0 + r/group)*a.n_head + head;
            const float * o = w.o + (size_t) r*w.dv_pad;
            if (a.n_split > 1) {
                float * out = a.out + ((size_t) split*a.n_tokens*a.n_head + at)*(L.dv + 2);
                std::memcpy(out, o, sizeof(float)*L.dv);
                out[L.dv]     = w.top[r];
                out[L.dv + 1] = w.sum[r];
            } else {
                xq_combine_row(o, w.top[r], w.sum[r], a.sinks ? a.sinks[head] : NEG_INF, a.out + at*L.dv);
            }
        }
    }

private:
    void xq_combine_row(const float * o, float top, float sum, float sink, float * out) const {
        const float next  = std::max(top, sink);
        const float decay = top > NEG_INF ? std::exp(top - next) : 0.0f;
        const float total = sum*decay + (sink > NEG_INF ? std::exp(sink - next) : 0.0f);
        const float f     = total > 0.0f ? decay/total : 0.0f;
        for (int i = 0; i < L.dv; ++i) {
            out[i] = o[i]*f;
        }
    }

    // Load the tile's mask; false if no token of the block sees it.
    bool load_mask(int tile) {
        const int n = std::min(XQ_TILE, a.n_kv - tile*XQ_TILE);
        bool any = false;
        for (int t = 0; t < tokens; ++t) {
            const uint16_t * src = mask + t*a.mask_token + (size_t) tile*XQ_TILE;
            float * dst = w.mask + t*XQ_LANES;
            for (int l = 0; l < XQ_TILE; ++l) {
                const uint16_t h = l < n ? src[l] : (uint16_t) 0xFC00; // -inf
                dst[l] = h == 0 ? 0.0f : (h == 0xFC00 ? NEG_INF : ggml_fp16_to_fp32(h));
                any |= h != 0xFC00;
            }
        }
        return any;
    }

    // Tokens that read the tile in the same form are neighbours (positions ascend), so handle runs of them.
    void visit(int tile) {
        const int page = tiles[tile*XQ_TILE_INTS], from = tiles[tile*XQ_TILE_INTS + 1];
        if ((page < 0 && from == XQ_NOT_SEALED) || !load_mask(tile)) {
            return;
        }
        bool unpacked = false, transposed = false;
        for (int t0 = 0; t0 < tokens;) {
            const int form = xq_tile_read(page, from, qpos[t0]);
            int t1 = t0 + 1;
            while (t1 < tokens && xq_tile_read(page, from, qpos[t1]) == form) {
                ++t1;
            }
            if (form == XQ_READ_CODES) {
                codes_run(tile, t0, t1, unpacked);
                transposed &= !unpacked; // both forms use the same scratch
            } else {
                page_run(page, t0, t1, transposed);
                unpacked &= !transposed;
            }
            t0 = t1;
        }
    }

    void codes_run(int tile, int t0, int t1, bool & unpacked) {
        const int r0 = t0*group, n = (t1 - t0)*group;
        const bool packed = n <= PACKED_ROWS;
        if (!packed && !unpacked) {
            kern.unpack_strip(L.k, L.k_tile(page_stream, tile, head_kv), L.k_tile_meta(page_stream, tile, head_kv), w.k);
            for (int g = 0; g < L.v.strips; ++g) {
                kern.unpack_strip(L.v, v_codes(tile, g), v_meta(tile, g), w.v + (size_t) g*XQ_TILE*XQ_LANES);
            }
            unpacked = true;
        }
        float * s = w.s + (size_t) r0*XQ_LANES;
        std::memset(s, 0, sizeof(float)*n*XQ_LANES);
        if (packed) {
            packed_scores(tile, r0, n, s);
        } else {
            kern.gemm32(w.q + (size_t) r0*w.dk_pad, w.dk_pad, n, w.k, L.dk, s, XQ_LANES);
        }
        softmax(t0, t1);
        for (int g = 0; g < L.v.strips; ++g) {
            if (packed) {
                packed_values(tile, g, r0, n, s);
            } else {
                kern.gemm32(s, XQ_LANES, n, w.v + (size_t) g*XQ_TILE*XQ_LANES, XQ_TILE,
                            w.o + (size_t) r0*w.dv_pad + g*XQ_LANES, w.dv_pad);
            }
        }
    }

    void page_run(int page, int t0, int t1, bool & transposed) {
        const int r0 = t0*group, n = (t1 - t0)*group;
        const uint16_t * keys   = L.k_page(page_stream, page, head_kv);
        const uint16_t * values = L.v_page(page_stream, page, head_kv);
        float * s = w.s + (size_t) r0*XQ_LANES;
        if (n <= PACKED_ROWS) {
            for (int r = 0; r < n; ++r) {
                kern.dots_f16(w.q + (size_t) (r0 + r)*w.dk_pad, keys, L.k_row, L.dk, s + r*XQ_LANES);
            }
        } else {
            if (!transposed) {
                kern.transpose_f16(keys, L.k_row, L.dk, w.k);
                transposed = true;
            }
            std::memset(s, 0, sizeof(float)*n*XQ_LANES);
            kern.gemm32(w.q + (size_t) r0*w.dk_pad, w.dk_pad, n, w.k, L.dk, s, XQ_LANES);
        }
        softmax(t0, t1);
        for (int g = 0; g < L.v.strips; ++g) {
            kern.gemm32_f16(s, XQ_LANES, n, values + g*XQ_LANES, L.v_row, XQ_TILE, strip_lanes(L.v, g),
                            w.o + (size_t) r0*w.dv_pad + g*XQ_LANES, w.dv_pad);
        }
    }

    // acc[lane] += sum_i (q_i scale_i) code_i[lane]  +  sum_i q_i zero_i
    void packed_scores(int tile, int r0, int n, float * s) {
        alignas(32) float scale[XQ_MAX_HEAD_DIM], zero[XQ_MAX_HEAD_DIM];
        kern.read_meta(L.k, L.k_tile_meta(page_stream, tile, head_kv), scale, zero);
        float offset[PACKED_ROWS];
        for (int r = 0; r < n; ++r) {
            const float * q = w.q + (size_t) (r0 + r)*w.dk_pad;
            float * m = w.m + (size_t) r*w.dk_pad;
            float sum = 0.0f;
            for (int i = 0; i < L.dk; ++i) {
                m[i] = q[i]*scale[i];
                sum += q[i]*zero[i];
            }
            std::fill(m + L.dk, m + w.dk_pad, 0.0f);
            offset[r] = sum;
        }
        kern.mac(L.k.bits, L.dk, L.k_tile(page_stream, tile, head_kv), w.m, w.dk_pad, n, s);
        for (int r = 0; r < n; ++r) {
            for (int l = 0; l < XQ_LANES; ++l) {
                s[r*XQ_LANES + l] += offset[r];
            }
        }
    }

    void packed_values(int tile, int g, int r0, int n, const float * p) {
        alignas(32) float scale[XQ_TILE], zero[XQ_TILE], m[PACKED_ROWS*XQ_TILE], acc[PACKED_ROWS*XQ_LANES];
        kern.read_meta(L.v, v_meta(tile, g), scale, zero);
        for (int r = 0; r < n; ++r) {
            float sum = 0.0f;
            for (int t = 0; t < XQ_TILE; ++t) {
                m[r*XQ_TILE + t] = p[r*XQ_LANES + t]*scale[t];
                sum += p[r*XQ_LANES + t]*zero[t];
            }
            std::fill(acc + r*XQ_LANES, acc + (r + 1)*XQ_LANES, sum);
        }
        kern.mac(L.v.bits, XQ_TILE, v_codes(tile, g), m, XQ_TILE, n, acc);
        for (int r = 0; r < n; ++r) {
            float * o = w.o + (size_t) (r0 + r)*w.dv_pad + g*XQ_LANES;
            for (int l = 0; l < XQ_LANES; ++l) {
                o[l] += acc[r*XQ_LANES + l];
            }
        }
    }

    // Scores to weights; the output so far decays where the maximum rose.
    void softmax(int t0, int t1) {
        for (int r = t0*group; r < t1*group; ++r) {
            float * s = w.s + (size_t) r*XQ_LANES;
            const float * mk = w.mask + (r/group)*XQ_LANES;
            const float slope = alibi_slope(a.max_bias, a.n_head, head_kv*group + r%group);
            for (int l = 0; l < XQ_TILE; ++l) {
                const float x = a.softcap != 0.0f ? a.softcap*std::tanh(s[l]) : s[l];
                s[l] = mk[l] == NEG_INF ? NEG_INF : x + slope*mk[l];
            }
            const float decay = kern.softmax_tile(s, w.top[r], w.sum[r]);
            if (decay != 1.0f) {
                float * o = w.o + (size_t) r*w.dv_pad;
                for (int i = 0; i < w.dv_pad; ++i) {
                    o[i] *= decay;
                }
            }
        }
    }

    const uint32_t * v_codes(int tile, int g) const {
        return L.v_tile(page_stream, tile, head_kv) + (size_t) g*xq_strip_words(L.v.rows, L.v.bits);
    }
    const uint8_t * v_meta(int tile, int g) const {
        return L.v_tile_meta(page_stream, tile, head_kv) + (size_t) g*xq_meta_bytes(L.v.rows, L.v.meta);
    }

    const xq_cpu_kernels & kern;
    const xq_attend_args & a;
    const xq_layer_view  & L;
    const int group, head_kv, stream, tokens;
    int token0, page_stream, n_tiles;
    const uint16_t * mask;
    const int32_t  * qpos;
    const int32_t  * tiles;
    scratch w;
};

} // namespace

size_t xq_attend_scratch(int dk, int dv) {
    return sizeof(float)*scratch::floats(BLOCK_ROWS, (dk + 31) & ~31, (dv + 31) & ~31);
}

int xq_attend_splits(int n_tokens, int n_stream, int n_head_kv, int n_head, int n_kv) {
    constexpr int WANTED = 32, MIN_TILES = 4; // enough items for many threads; a split is worth a few tiles
    const int n_tps  = n_tokens / n_stream;
    const int blocks = (n_tps + block_tokens(n_head, n_head_kv) - 1) / block_tokens(n_head, n_head_kv);
    const int items  = n_stream*n_head_kv*blocks;
    const int tiles  = (n_kv + XQ_TILE - 1) / XQ_TILE;
    return std::max(1, std::min(WANTED/items, tiles/MIN_TILES));
}

void xq_attend(const xq_cpu_kernels & kern, const xq_attend_args & a, int ith, int nth) {
    const int n_tps   = a.n_tokens / a.n_stream;
    const int step    = block_tokens(a.n_head, a.layer.n_head_kv);
    const int blocks  = (n_tps + step - 1) / step;
    const int tiles   = (a.n_kv + XQ_TILE - 1) / XQ_TILE;
    const int items   = a.n_stream*a.layer.n_head_kv*blocks*a.n_split;
    for (int i = ith; i < items; i += nth) {
        const int split  = i % a.n_split, rest = i / a.n_split;
        const int head   = rest % a.layer.n_head_kv, rest2 = rest / a.layer.n_head_kv;
        const int stream = rest2 / blocks, t0 = (rest2 % blocks)*step;
        block b(kern, a, stream, head, t0, std::min(t0 + step, n_tps));
        b.run(tiles*split/a.n_split, tiles*(split + 1)/a.n_split);
        b.finish(split);
    }
}

void xq_combine(const float * in, float * out, const float * sinks, int dv, int n_head, int n_tokens, int n_split,
                int ith, int nth) {
    const int rows = n_tokens*n_head;
    const size_t plane = (size_t) rows*(dv + 2);
    for (int r = ith; r < rows; r += nth) {
        const float * part = in + (size_t) r*(dv + 2);
        float top = sinks ? sinks[r % n_head] : NEG_INF;
        const float sink = top;
        for (int s = 0; s < n_split; ++s) {
            top = std::max(top, part[s*plane + dv]);
        }
        float total = sink > NEG_INF ? std::exp(sink - top) : 0.0f;
        float * o = out + (size_t) r*dv;
        std::fill(o, o + dv, 0.0f);
        for (int s = 0; s < n_split; ++s) {
            const float * p = part + s*plane;
            const float f = p[dv] > NEG_INF ? std::exp(p[dv] - top) : 0.0f;
            total += p[dv + 1]*f;
            for (int i = 0; i < dv; ++i) {
                o[i] += p[i]*f;
            }
        }
        const float inv = total > 0.0f ? 1.0f/total : 0.0f;
        for (int i = 0; i < dv; ++i) {
            o[i] *= inv;
        }
    }
}
