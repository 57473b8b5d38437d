// AVX-512 with VNNI and VBMI (Ice Lake, Zen 4 and later): keys, and a softmax. What surrounds the products costs as
// much as they do, so four queries are prepared together.
#include "kernels/cpu/avx512.h"
#include "kernels/cpu/avx512_product.h"

#include <algorithm>
#include <limits>

using namespace xq_avx512;

namespace {

// ---- keys --------------------------------------------------------------------------------------------------

// What a strip's rows share for all queries. Rows of 8 bits have far smaller scales than the others, and steps of
// their own: they are the first of two segments.
// TABLES: vectors of 64 bytes that its rows fill; WHOLE: to the last byte, so that loops have fixed lengths.
template <int TABLES, bool WHOLE> struct key_strip {
    int n_rows;
    fields f;
    bool apart = false;         // whether there are rows of 8 bits
    float most[2];              // largest code of each segment
    __m512 scale[4*TABLES], zero[4*TABLES];
    uint64_t eight[TABLES];     // rows of 8 bits

    int rows() const { return WHOLE ? 64*TABLES : n_rows; }
    int vectors() const { return rows()/16; }

    __mmask16 in_eight(int i) const { return (__mmask16) (eight[i/4] >> 16*(i%4)); }

    // Fields of some rows in words from `first` on. Returns the words.
    int add_rows(int bits, const uint64_t * in, int first) {
        alignas(64) static constexpr bytes64 count = [] {
            bytes64 b{};
            for (int i = 0; i < 64; ++i) {
                b[i] = TABLES == 1 ? LOW_BYTES[i] : (uint8_t) i; // as prepare() looks them up
            }
            return b;
        }();
        const __m512i low = load(count.data());
        __m512i which[TABLES];
        if constexpr (TABLES == 1) { // in registers: memory would wait for the store
            which[0] = _mm512_maskz_compress_epi8(in[0], low);
            return in[0] ? f.add<1>(bits, (int) _mm_popcnt_u64(in[0]), first, which) : 0;
        }
        alignas(64) uint8_t names[64*TABLES + 64] = {};
        int n = 0;
        for (int b = 0; b < TABLES; ++b) {
            const __m512i all = _mm512_add_epi8(low, _mm512_set1_epi8((char) (64*b)));
            _mm512_storeu_si512(names + n, _mm512_maskz_compress_epi8(in[b], all));
            n += (int) _mm_popcnt_u64(in[b]);
        }
        for (int b = 0; b < TABLES; ++b) {
            which[b] = load(names + 64*b);
        }
        return n ? f.add<TABLES>(bits, n, first, which) : 0;
    }

    // Ranked, from its metadata (xq_ranked.h).
    void read_ranked(const xq_side & side, const uint8_t * meta) {
        const int fine = xq_fine(side);
        const uint8_t * low = meta + XQ_RANKED_HEAD, * high = low + rows()/8;
        const uint8_t * scales = meta + xq_ranked_scale_at(rows()), * mids = meta + xq_ranked_mid_at(rows());
        // of each class: the midpoints' grid, lowest and step in turns, and half the levels
        const __m512 grids = _mm512_castps256_ps512(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) (meta + xq_ranked_grid_at(0)))));
        alignas(16) float half_of[XQ_CLASSES];
        for (int c = 0; c < XQ_CLASSES; ++c) {
            half_of[c] = 0.5f*(float) xq_code_max(xq_class_bits(c, fine));
        }
        const __m512 half_levels = _mm512_castps128_ps512(_mm_load_ps(half_of));
        // all 16 scales there can be; code 0 is a scale of 0
        const __m512i u = _mm512_setr_epi32(-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14);
        const __m512i log = _mm512_add_epi32(_mm512_set1_epi32(load_u16(meta)), _mm512_mullo_epi32(u, _mm512_set1_epi32(load_u16(meta + 2))));
        const __m512 scale_of = _mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xFFFE, log, 16));
        for (int i = 0; i < vectors(); ++i) {
            const __mmask16 l = load_u16(low + 2*i), h = load_u16(high + 2*i);
            const __m512i cls = _mm512_mask_add_epi32(_mm512_maskz_set1_epi32(l, 1), h, _mm512_maskz_set1_epi32(l, 1), _mm512_set1_epi32(2));
            const __m512i grid = _mm512_add_epi32(cls, cls), step = _mm512_add_epi32(grid, _mm512_set1_epi32(1));
            const __m512i pair = _mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *) (scales + 8*i)));
            scale[i] = _mm512_permutexvar_ps(_mm512_or_si512(pair, _mm512_slli_epi64(pair, 28)), scale_of); // reads 4 bits of an index
            const __m512 at = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *) (mids + 16*i))));
            const __m512 mid = _mm512_add_ps(_mm512_permutexvar_ps(grid, grids), _mm512_mul_ps(_mm512_permutexvar_ps(step, grids), at));
            zero[i] = _mm512_fnmadd_ps(scale[i], _mm512_permutexvar_ps(cls, half_levels), mid);
        }
        uint64_t l[TABLES] = {}, h[TABLES] = {}, there[TABLES] = {}, in[TABLES];
        std::memcpy(l, low, rows()/8);
        std::memcpy(h, high, rows()/8);
        std::memset(there, 0xFF, rows()/8);
        int word = 0;
        for (int c = XQ_CLASSES - 1; c >= (fine ? 0 : 1); --c) {
            for (int b = 0; b < TABLES; ++b) {
                in[b] = (c & 1 ? l[b] : ~l[b]) & (c & 2 ? h[b] : ~h[b]) & there[b];
            }
            word += add_rows(xq_class_bits(c, fine), in, word);
            if (fine && c == XQ_CLASSES - 1 && word > 0) {
                apart = true;
                std::copy(in, in + TABLES, eight);
                most[0] = 255.0f;
                f.close();
            }
        }
        most[f.segments] = 15.0f;
        f.close();
    }

    void read_uniform(const xq_side & side, const uint8_t * meta) {
        alignas(64) float s[XQ_MAX_ROWS], z[XQ_MAX_ROWS];
        xq_kernels_avx2.read_meta(side, meta, s, z);
        for (int i = 0; i < vectors(); ++i) {
            scale[i] = _mm512_load_ps(s + 16*i);
            zero[i]  = _mm512_load_ps(z + 16*i);
        }
        uint64_t all[TABLES] = {};
        std::memset(all, 0xFF, rows()/8);
        const int words = add_rows(side.bits == 3 ? 2 : side.bits, all, 0);
        most[0] = (float) xq_code_max(side.bits);
        f.close();
        if (side.bits == 3) { // the plane of high bits
            add_rows(1, all, words);
            f.close(4.0f);
        }
    }
};

// Bytes that idx names out of 128 or 256.
template <int TABLES> __m512i pick(const __m512i * table, __m512i idx) {
    if constexpr (TABLES == 2) {
        return _mm512_permutex2var_epi8(table[0], idx, table[1]);
    } else {
        return _mm512_mask_blend_epi8(_mm512_movepi8_mask(idx), pick<2>(table, idx), pick<2>(table + 2, idx));
    }
}

// Multipliers of NR queries in the order in which fields meet them. Returns a bit for each whose largest share of a
// logit is too large.
template <int NR, bool APART, int TABLES, bool WHOLE>
unsigned prepare(const key_strip<TABLES, WHOLE> & k, const float * q, int ldq, multipliers * mu, float * offset) {
    __m512 m[NR][TABLES*4], sum[BATCH], top[2][BATCH];
    xq_each<BATCH>([&](auto j) XQ_INLINE { sum[j] = top[0][j] = top[1][j] = _mm512_setzero_ps(); });
    xq_each<NR>([&](auto j) XQ_INLINE {
        xq_each<4*TABLES>([&](auto i) XQ_INLINE {
            if (!WHOLE && i >= k.vectors()) {
                m[j][i] = _mm512_setzero_ps();
                return;
            }
            const __m512 qi = _mm512_loadu_ps(q + (size_t) j*ldq + 16*i);
            m[j][i] = _mm512_mul_ps(qi, k.scale[i]);
            sum[j]  = _mm512_fmadd_ps(qi, k.zero[i], sum[j]);
            const __m512 size = _mm512_abs_ps(m[j][i]);
            if (APART) {
                top[0][j] = _mm512_mask_max_ps(top[0][j], k.in_eight(i), top[0][j], size);
                top[1][j] = _mm512_mask_max_ps(top[1][j], _knot_mask16(k.in_eight(i)), top[1][j], size);
            } else {
                top[0][j] = _mm512_max_ps(top[0][j], size);
            }
        });
    });
    _mm_storeu_ps(offset, sums(sum));
    alignas(16) float step[2][BATCH], inv[2][BATCH];
    unsigned coarse = 0;
    for (int s = 0; s < (APART ? 2 : 1); ++s) {
        const __m128 most = maxima(top[s]);
        _mm_store_ps(step[s], _mm_mul_ps(most, _mm_set1_ps(1.0f/STEPS)));
        _mm_store_ps(inv[s], inverses(most));
        coarse |= (unsigned) _mm_movemask_ps(_mm_cmpgt_ps(_mm_mul_ps(most, _mm_set1_ps(k.most[s])), _mm_set1_ps(XQ_MAX_SHARE)));
    }
    const int slots = 4*k.f.n;
    xq_each<NR>([&](auto j) XQ_INLINE {
        mu[j].step[0] = step[0][j];
        mu[j].step[1] = step[APART ? 1 : 0][j]; // 3 bits: both planes
        const __m512 inv0 = _mm512_set1_ps(inv[0][j]), inv1 = _mm512_set1_ps(inv[APART ? 1 : 0][j]);
        xq_each<4*TABLES>([&](auto i) XQ_INLINE {
            m[j][i] = _mm512_mul_ps(m[j][i], APART ? _mm512_mask_blend_ps(k.in_eight(i), inv1, inv0) : inv0);
        });
        if constexpr (TABLES == 1) {
            const shorts all = to_shorts(m[j]);
            for (int i = 0; i < slots; i += 64) {
                const halves h = bytes_at(all, load(k.f.row + i));
                _mm512_store_si512(mu[j].hi + i, h.hi);
                _mm512_store_si512(mu[j].lo + i, h.lo);
            }
        } else {
            __m512i hi[TABLES], lo[TABLES];
            for (int t = 0; t < TABLES; ++t) {
                const halves h = bytes_at(to_shorts(m[j] + 4*t), load(LOW_BYTES.data()));
                hi[t] = h.hi;
                lo[t] = h.lo;
            }
            for (int i = 0; i < slots; i += 64) {
                const __m512i idx = load(k.f.row + i);
                _mm512_store_si512(mu[j].hi + i, pick<TABLES>(hi, idx));
                _mm512_store_si512(mu[j].lo + i, pick<TABLES>(lo, idx));
            }
        }
    });
    return coarse & ((1u << NR) - 1);
}

// NR rows of all tiles. All tiles' multipliers first, then all products: one tile's are a long chain of short steps, and the
// processor looks far enough ahead to work on the next tile's meanwhile, but not past a product.
template <int NR, int TABLES, bool WHOLE>
void score_rows(const key_strip<TABLES, WHOLE> * k, const xq_sealed_tiles & tiles, const float * q, int ldq, float * s, int lds, int j, uint64_t * coarse) {
    multipliers mu[XQ_CHUNK_TILES][NR];
    float offset[XQ_CHUNK_TILES][BATCH];
    for (int t = 0; t < tiles.n; ++t) {
        const unsigned bits = k[t].apart ? prepare<NR, true>(k[t], q, ldq, mu[t], offset[t]) : prepare<NR, false>(k[t], q, ldq, mu[t], offset[t]);
        coarse[t] |= (uint64_t) bits << j;
    }
    for (int t = 0; t < tiles.n; ++t) {
        product<NR>(k[t].f, tiles.codes[t], mu[t], offset[t], s + tiles.at[t], lds);
    }
}

template <int TABLES, bool WHOLE>
void key_scores(const xq_side & side, const xq_sealed_tiles & tiles, const float * q, int ldq, int n, float * s, int lds, uint64_t * coarse) {
    key_strip<TABLES, WHOLE> k[XQ_CHUNK_TILES];
    for (int t = 0; t < tiles.n; ++t) {
        k[t].n_rows = side.rows;
        side.meta == XQ_META_RANKED ? k[t].read_ranked(side, tiles.meta[t]) : k[t].read_uniform(side, tiles.meta[t]);
        coarse[t] = 0;
    }
    for (int j = 0; j < n; j += BATCH, q += BATCH*(size_t) ldq, s += BATCH*(size_t) lds) {
        switch (n - j) {
            case 1:  score_rows<1>(k, tiles, q, ldq, s, lds, j, coarse); break;
            case 2:  score_rows<2>(k, tiles, q, ldq, s, lds, j, coarse); break;
            case 3:  score_rows<3>(k, tiles, q, ldq, s, lds, j, coarse); break;
            default: score_rows<4>(k, tiles, q, ldq, s, lds, j, coarse); break;
        }
    }
}

} // namespace

void xq_avx512_key_scores(const xq_side & side, const xq_sealed_tiles & tiles, const float * q, int ldq, int n, float * s, int lds, uint64_t * coarse) {
    const auto run = side.rows % 16 != 0 ? xq_kernels_avx2.key_scores // rows in whole vectors
        : side.rows == 64  ? key_scores<1, true>
        : side.rows == 128 ? key_scores<2, true>
        : side.rows == 256 ? key_scores<4, true>
        : side.rows < 64   ? key_scores<1, false>
        : side.rows < 128  ? key_scores<2, false>
                           : key_scores<4, false>;
    run(side, tiles, q, ldq, n, s, lds, coarse);
}

// ---- softmax -----------------------------------------------------------------------------------------------

// e^x for x <= 0: 2^floor(t) times 2^f, f the rest, by a polynomial that is 1 at 0 (least relative error on [0, 1), 1.4e-7 in f32).
static __m512 exp16(__m512 x) {
    // -inf too: 2^-160 is 0. A NaN stays one as the second of the two
    const __m512 t = _mm512_max_ps(_mm512_set1_ps(-160.0f), _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)));
    const __m512 f = _mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF);
    __m512 y = _mm512_set1_ps(1.86713017e-3f);
    for (float c : {9.01702978e-3f, 5.57999127e-2f, 2.40164444e-1f, 6.93151295e-1f, 1.0f}) {
        y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(c));
    }
    return _mm512_scalef_ps(y, t); // takes the floor itself
}

bool xq_avx512_finite(const float * x, int n) {
    const __m512 none = _mm512_setzero_ps();
    __m512 sum[2] = {none, none}; // 0 times what is not finite is a NaN
    for (int i = 0; i < n; i += 32) {
        sum[0] = _mm512_fmadd_ps(none, _mm512_loadu_ps(x + i), sum[0]);
        sum[1] = _mm512_fmadd_ps(none, _mm512_loadu_ps(x + i + 16), sum[1]);
    }
    const __m512 all = _mm512_add_ps(sum[0], sum[1]);
    return _mm512_cmp_ps_mask(all, all, _CMP_UNORD_Q) == 0;
}

float xq_avx512_softmax(float * s, int n, float * sum) {
    const __m512 none = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    __m512 most[2] = {none, none};
    for (int i = 0; i < n; i += 32) {
        xq_each<2>([&](auto j) XQ_INLINE { most[j] = _mm512_max_ps(_mm512_loadu_ps(s + i + 16*j), most[j]); }); // of a NaN and another the other
    }
    const float top = _mm512_reduce_max_ps(_mm512_max_ps(most[0], most[1]));
    if (!(top > -std::numeric_limits<float>::infinity())) {
        return xq_softmax_of_none(s, n, sum);
    }
    __m512 total = _mm512_setzero_ps();
    for (int i = 0; i < n; i += 16) {
        const __m512 p = exp16(_mm512_sub_ps(_mm512_loadu_ps(s + i), _mm512_set1_ps(top)));
        _mm512_storeu_ps(s + i, p);
        total = _mm512_add_ps(total, p);
    }
    *sum = _mm512_reduce_add_ps(total);
    return top;
}
