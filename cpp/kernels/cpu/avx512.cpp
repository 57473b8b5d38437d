// AVX-512 with VNNI and VBMI (Ice Lake, Zen 4 and later): avx2's primitives, with products (avx512_product.h) and a
// softmax of its own. What surrounds the products costs as much as they do, so four queries are prepared together.
#include "kernels/cpu/avx512.h"
#include "kernels/cpu/avx512_product.h"

#include <algorithm>
#include <limits>

using namespace xq_avx512;

namespace {

constexpr int VECTORS = XQ_MAX_HEAD_DIM/16;
constexpr float STEPS = 32512.0f; // of the largest multiplier

// 64 multipliers, already in steps, to bytes in row order.
void to_bytes(const __m512 * m, __m512i & hi, __m512i & lo) {
    const __m512i back = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15); // packs works by quarters
    const __m512i a = _mm512_packs_epi32(_mm512_cvtps_epi32(m[0]), _mm512_cvtps_epi32(m[1]));
    const __m512i b = _mm512_packs_epi32(_mm512_cvtps_epi32(m[2]), _mm512_cvtps_epi32(m[3]));
    const __m512i half = _mm512_set1_epi16(128);
    const __m512i ha = _mm512_srai_epi16(_mm512_add_epi16(a, half), 8), hb = _mm512_srai_epi16(_mm512_add_epi16(b, half), 8);
    const __m512i la = _mm512_sub_epi16(a, _mm512_slli_epi16(ha, 8)), lb = _mm512_sub_epi16(b, _mm512_slli_epi16(hb, 8));
    hi = _mm512_permutexvar_epi32(back, _mm512_packs_epi16(ha, hb));
    lo = _mm512_permutexvar_epi32(back, _mm512_packs_epi16(la, lb));
}

// One number out of each of four vectors, by an operation on pairs.
template <class Op> __m128 of_four(const __m512 * v, Op op) {
    const __m512 a = op(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    const __m512 b = op(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    const __m512 c = op(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xEE)); // v0..v3 in every quarter
    const __m512 d = op(c, _mm512_shuffle_f32x4(c, c, 0x4E));
    return _mm512_castps512_ps128(op(d, _mm512_shuffle_f32x4(d, d, 0xB1)));
}
__m128 maxima(const __m512 * v) { return of_four(v, [](__m512 a, __m512 b) { return _mm512_max_ps(a, b); }); }
__m128 sums(const __m512 * v)   { return of_four(v, [](__m512 a, __m512 b) { return _mm512_add_ps(a, b); }); }

// Steps a unit, for multipliers of up to `top`; none where all are 0.
__m128 inverses(__m128 top) { return _mm_and_ps(_mm_cmpgt_ps(top, _mm_setzero_ps()), _mm_div_ps(_mm_set1_ps(STEPS), top)); }

uint16_t load_u16(const uint8_t * p) { uint16_t v; std::memcpy(&v, p, 2); return v; }
float    load_f16(const uint8_t * p) { return _cvtsh_ss(load_u16(p)); }

// ---- keys --------------------------------------------------------------------------------------------------

// What a strip's rows share for all queries. Rows of 8 bits have far smaller scales than the others, and steps of
// their own: they are the first of two segments.
struct key_strip {
    int vectors;                // of 16 rows
    fields f;
    bool apart = false;         // whether there are rows of 8 bits
    float most[2];              // largest code of each segment
    __m512 scale[VECTORS], zero[VECTORS];
    uint64_t eight[VECTORS/4];  // rows of 8 bits

    __mmask16 in_eight(int i) const { return (__mmask16) (eight[i/4] >> 16*(i%4)); }

    // Rows of a class, in ascending order, to where the next fields will look for them. Returns how many.
    int list_rows(const uint64_t * in) {
        alignas(64) static constexpr bytes64 count = [] {
            bytes64 b{};
            for (int i = 0; i < 64; ++i) {
                b[i] = (uint8_t) i;
            }
            return b;
        }();
        int rows = 0;
        for (int b = 0; b < (vectors + 3)/4; ++b) {
            const __m512i all = _mm512_add_epi8(load(count.data()), _mm512_set1_epi8((char) (64*b)));
            _mm512_storeu_si512(f.row + 4*f.n + rows, _mm512_maskz_compress_epi8(in[b], all));
            rows += (int) _mm_popcnt_u64(in[b]);
        }
        return rows;
    }

    // Ranked, from its metadata (xq_ranked.h).
    void read_ranked(const xq_side & side, const uint8_t * meta) {
        const int rows = side.rows, fine = xq_fine(side);
        const uint8_t * low = meta + XQ_RANKED_HEAD, * high = low + rows/8;
        const uint8_t * scales = meta + xq_ranked_scale_at(rows), * mids = meta + xq_ranked_mid_at(rows);
        const __m512 lo0 = _mm512_set1_ps(load_f16(meta + 4)), lo1 = _mm512_set1_ps(load_f16(meta + 8));
        const __m512 st0 = _mm512_set1_ps(load_f16(meta + 6)), st1 = _mm512_set1_ps(load_f16(meta + 10));
        __m512 half_levels[XQ_CLASSES];
        for (int c = 0; c < XQ_CLASSES; ++c) {
            half_levels[c] = _mm512_set1_ps(0.5f*(float) xq_code_max(xq_class_bits(c, fine)));
        }
        // all 16 scales there can be; code 0 is a scale of 0
        const __m512i u = _mm512_setr_epi32(-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14);
        const __m512i log = _mm512_add_epi32(_mm512_set1_epi32(load_u16(meta)), _mm512_mullo_epi32(u, _mm512_set1_epi32(load_u16(meta + 2))));
        const __m512 scale_of = _mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xFFFE, log, 16));
        for (int i = 0; i < vectors; ++i) {
            const __mmask16 l = load_u16(low + 2*i), h = load_u16(high + 2*i), wide = fine ? h : (__mmask16) (l & h);
            const __m512i pair = _mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *) (scales + 8*i)));
            scale[i] = _mm512_permutexvar_ps(_mm512_or_si512(pair, _mm512_slli_epi64(pair, 28)), scale_of); // reads 4 bits of an index
            const __m512 at = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *) (mids + 16*i))));
            const __m512 mid = _mm512_add_ps(_mm512_mask_blend_ps(wide, lo0, lo1), _mm512_mul_ps(_mm512_mask_blend_ps(wide, st0, st1), at));
            const __m512 half = _mm512_mask_blend_ps(h, _mm512_mask_blend_ps(l, half_levels[0], half_levels[1]),
                                                        _mm512_mask_blend_ps(l, half_levels[2], half_levels[3]));
            zero[i] = _mm512_fnmadd_ps(scale[i], half, mid);
        }
        uint64_t l[VECTORS/4] = {}, h[VECTORS/4] = {}, there[VECTORS/4] = {}, in[VECTORS/4];
        std::memcpy(l, low, rows/8);
        std::memcpy(h, high, rows/8);
        std::memset(there, 0xFF, rows/8);
        int word = 0;
        for (int c = XQ_CLASSES - 1; c >= (fine ? 0 : 1); --c) {
            for (int b = 0; b < (vectors + 3)/4; ++b) {
                in[b] = (c & 1 ? l[b] : ~l[b]) & (c & 2 ? h[b] : ~h[b]) & there[b];
            }
            const int n = list_rows(in);
            if (n > 0) {
                word += f.add(xq_class_bits(c, fine), n, word);
            }
            if (fine && c == XQ_CLASSES - 1 && n > 0) {
                apart = true;
                std::copy(in, in + VECTORS/4, eight);
                most[0] = 255.0f;
                f.close();
            }
        }
        most[f.segments] = 15.0f;
        f.close();
    }

    void read_uniform(const xq_side & side, const uint8_t * meta) {
        alignas(64) float s[XQ_MAX_HEAD_DIM], z[XQ_MAX_HEAD_DIM];
        xq_kernels_avx2.read_meta(side, meta, s, z);
        for (int i = 0; i < vectors; ++i) {
            scale[i] = _mm512_load_ps(s + 16*i);
            zero[i]  = _mm512_load_ps(z + 16*i);
        }
        const uint64_t all[VECTORS/4] = {~0ull, ~0ull, ~0ull, ~0ull};
        list_rows(all);
        const int words = f.add(side.bits == 3 ? 2 : side.bits, side.rows, 0);
        most[0] = (float) xq_code_max(side.bits);
        f.close();
        if (side.bits == 3) { // the plane of high bits
            list_rows(all);
            f.add(1, side.rows, words);
            f.close(4.0f);
        }
    }
};

// Bytes that idx names out of up to 256.
template <int TABLES> __m512i pick(const __m512i * table, __m512i idx) {
    if (TABLES == 1) {
        return _mm512_permutexvar_epi8(idx, table[0]);
    }
    const __m512i low = _mm512_permutex2var_epi8(table[0], idx, table[1]);
    return TABLES == 2 ? low : _mm512_mask_permutex2var_epi8(low, 0, idx, low);
}
template <> __m512i pick<4>(const __m512i * table, __m512i idx) {
    const __m512i low = _mm512_permutex2var_epi8(table[0], idx, table[1]), high = _mm512_permutex2var_epi8(table[2], idx, table[3]);
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(idx), low, high);
}

// Multipliers of n queries (up to BATCH) in the order in which fields meet them. Returns a bit for each whose largest
// share of a logit is too large.
template <int TABLES>
unsigned prepare(const key_strip & k, const float * q, int ldq, int n, multipliers * mu, float * offset) {
    __m512 m[BATCH][TABLES*4], sum[BATCH], top[2][BATCH];
    for (int j = 0; j < BATCH; ++j) {
        sum[j] = top[0][j] = top[1][j] = _mm512_setzero_ps();
    }
    for (int j = 0; j < n; ++j) {
        for (int i = 0; i < k.vectors; ++i) {
            const __m512 qi = _mm512_loadu_ps(q + (size_t) j*ldq + 16*i);
            m[j][i] = _mm512_mul_ps(qi, k.scale[i]);
            sum[j]  = _mm512_fmadd_ps(qi, k.zero[i], sum[j]);
            const __m512 size = _mm512_abs_ps(m[j][i]);
            if (k.apart) {
                top[0][j] = _mm512_mask_max_ps(top[0][j], k.in_eight(i), top[0][j], size);
                top[1][j] = _mm512_mask_max_ps(top[1][j], _knot_mask16(k.in_eight(i)), top[1][j], size);
            } else {
                top[0][j] = _mm512_max_ps(top[0][j], size);
            }
        }
        for (int i = k.vectors; i < TABLES*4; ++i) {
            m[j][i] = _mm512_setzero_ps();
        }
    }
    _mm_storeu_ps(offset, sums(sum));
    alignas(16) float step[2][BATCH], inv[2][BATCH];
    unsigned coarse = 0;
    for (int s = 0; s < (k.apart ? 2 : 1); ++s) {
        const __m128 most = maxima(top[s]);
        _mm_store_ps(step[s], _mm_mul_ps(most, _mm_set1_ps(1.0f/STEPS)));
        _mm_store_ps(inv[s], inverses(most));
        coarse |= (unsigned) _mm_movemask_ps(_mm_cmpgt_ps(_mm_mul_ps(most, _mm_set1_ps(k.most[s])), _mm_set1_ps(XQ_MAX_SHARE)));
    }
    const int slots = 4*k.f.n;
    for (int j = 0; j < n; ++j) {
        mu[j].step[0] = step[0][j];
        mu[j].step[1] = step[k.apart ? 1 : 0][j]; // 3 bits: both planes
        const __m512 inv0 = _mm512_set1_ps(inv[0][j]), inv1 = _mm512_set1_ps(inv[k.apart ? 1 : 0][j]);
        __m512i hi[TABLES], lo[TABLES];
        for (int t = 0; t < TABLES; ++t) {
            for (int i = 4*t; i < 4*t + 4; ++i) {
                m[j][i] = _mm512_mul_ps(m[j][i], k.apart ? _mm512_mask_blend_ps(k.in_eight(i), inv1, inv0) : inv0);
            }
            to_bytes(m[j] + 4*t, hi[t], lo[t]);
        }
        for (int i = 0; i < slots; i += 64) {
            const __m512i idx = load(k.f.row + i);
            _mm512_store_si512(mu[j].hi + i, pick<TABLES>(hi, idx));
            _mm512_store_si512(mu[j].lo + i, pick<TABLES>(lo, idx));
        }
    }
    return coarse & ((1u << n) - 1);
}

template <int TABLES>
uint64_t key_scores(const key_strip & k, const uint32_t * codes, const float * q, int ldq, int n, float * s, int lds) {
    multipliers mu[BATCH];
    float offset[BATCH];
    uint64_t coarse = 0;
    for (int j = 0; j < n; j += BATCH) {
        const int nj = std::min(BATCH, n - j);
        coarse |= (uint64_t) prepare<TABLES>(k, q + (size_t) j*ldq, ldq, nj, mu, offset) << j;
        product(nj, k.f, codes, mu, offset, false, s + (size_t) j*lds, lds);
    }
    return coarse;
}

} // namespace

uint64_t xq_avx512_key_scores(const xq_side & side, const uint32_t * codes, const uint8_t * meta, const float * q, int ldq, int n, float * s, int lds) {
    if (side.rows % 16 != 0) { // rows in whole vectors
        return xq_kernels_avx2.key_scores(side, codes, meta, q, ldq, n, s, lds);
    }
    key_strip k;
    k.vectors = side.rows/16;
    side.meta == XQ_META_RANKED ? k.read_ranked(side, meta) : k.read_uniform(side, meta);
    return k.vectors <= 4 ? key_scores<1>(k, codes, q, ldq, n, s, lds)
         : k.vectors <= 8 ? key_scores<2>(k, codes, q, ldq, n, s, lds)
                          : key_scores<4>(k, codes, q, ldq, n, s, lds);
}

// ---- values ------------------------------------------------------------------------------------------------

namespace {

// Scale and zero point of 32 tokens.
struct value_meta {
    __m512 scale[2], zero[2];

    value_meta(const xq_side & side, const uint8_t * meta) {
        if (side.meta == XQ_META_LOG8) {
            const __m512i lowest = _mm512_set1_epi32(load_u16(meta)), step = _mm512_set1_epi32(load_u16(meta + 2)), one = _mm512_set1_epi32(1);
            const __m512 half = _mm512_set1_ps(-0.5f*(float) xq_code_max(side.bits));
            for (int i = 0; i < 2; ++i) {
                const __m512i u = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *) (meta + XQ_LOG_HEAD + 16*i)));
                const __m512i log = _mm512_add_epi32(lowest, _mm512_mullo_epi32(_mm512_sub_epi32(u, one), step));
                scale[i] = _mm512_castsi512_ps(_mm512_maskz_slli_epi32(_mm512_test_epi32_mask(u, u), log, 16));
                zero[i]  = _mm512_mul_ps(scale[i], half);
            }
            return;
        }
        alignas(64) float s[XQ_TILE], z[XQ_TILE];
        xq_kernels_avx2.read_meta(side, meta, s, z);
        for (int i = 0; i < 2; ++i) {
            scale[i] = _mm512_load_ps(s + 16*i);
            zero[i]  = _mm512_load_ps(z + 16*i);
        }
    }
};

} // namespace

void xq_avx512_add_values(const xq_side & side, const uint32_t * codes, const uint8_t * meta, const float * p, int ldp, int n, float * o, int ldo) {
    const int words = xq_side_words(side);
    fields f; // multipliers are put in order below
    const int low = side.bits == 3 ? 2 : side.bits;
    f.add(low, XQ_TILE, 0);
    f.close();
    if (side.bits == 3) {
        f.add(1, XQ_TILE, xq_plane_words(XQ_TILE, 2));
        f.close(4.0f);
    }
    const __m512i order = load(of_bits(low).order.data()), order1 = load(of_bits(1).order.data());
    multipliers mu[BATCH];
    alignas(16) float offset[BATCH], inv[BATCH], step[BATCH];
    for (int g = 0; g < side.strips;) {
        int end = g + 1; // strips that share these scales
        while (end < side.strips && xq_meta_at(side, end) == xq_meta_at(side, g)) {
            ++end;
        }
        const value_meta of(side, meta + xq_meta_at(side, g));
        for (int j0 = 0; j0 < n; j0 += BATCH) {
            const int nj = std::min(BATCH, n - j0);
            __m512 m[BATCH][2], sum[BATCH], top[BATCH];
            for (int j = 0; j < BATCH; ++j) {
                const float * pj = p + (size_t) (j0 + std::min(j, nj - 1))*ldp;
                const __m512 p0 = _mm512_loadu_ps(pj), p1 = _mm512_loadu_ps(pj + 16);
                m[j][0] = _mm512_mul_ps(p0, of.scale[0]);
                m[j][1] = _mm512_mul_ps(p1, of.scale[1]);
                sum[j] = _mm512_fmadd_ps(p0, of.zero[0], _mm512_mul_ps(p1, of.zero[1]));
                top[j] = _mm512_max_ps(_mm512_abs_ps(m[j][0]), _mm512_abs_ps(m[j][1]));
            }
            const __m128 most = maxima(top);
            _mm_store_ps(offset, sums(sum));
            _mm_store_ps(inv, inverses(most));
            _mm_store_ps(step, _mm_mul_ps(most, _mm_set1_ps(1.0f/STEPS)));
            for (int j = 0; j < nj; j += 2) { // two rows of 32 in a vector of bytes
                __m512 steps[4];
                for (int i = 0; i < 4; ++i) {
                    steps[i] = _mm512_mul_ps(m[j + i/2][i%2], _mm512_set1_ps(inv[j + i/2]));
                }
                __m512i hi, lo;
                to_bytes(steps, hi, lo);
                for (int i = 0; i < f.segments; ++i) {
                    const __m512i h = _mm512_permutexvar_epi8(i ? order1 : order, hi), l = _mm512_permutexvar_epi8(i ? order1 : order, lo);
                    const int at = i*XQ_TILE;
                    _mm256_store_si256((__m256i *) (mu[j].hi + at), _mm512_castsi512_si256(h));
                    _mm256_store_si256((__m256i *) (mu[j].lo + at), _mm512_castsi512_si256(l));
                    _mm256_store_si256((__m256i *) (mu[j + 1].hi + at), _mm512_extracti64x4_epi64(h, 1));
                    _mm256_store_si256((__m256i *) (mu[j + 1].lo + at), _mm512_extracti64x4_epi64(l, 1));
                }
                mu[j].step[0] = mu[j].step[1] = step[j];
                mu[j + 1].step[0] = mu[j + 1].step[1] = step[j + 1];
            }
            for (int h = g; h < end; ++h) {
                product(nj, f, codes + (size_t) h*words, mu, offset, true, o + (size_t) j0*ldo + h*XQ_LANES, ldo);
            }
        }
        g = end;
    }
}

// ---- softmax -----------------------------------------------------------------------------------------------

// e^x for x <= 0: 2^n times a polynomial on [-ln2/2, ln2/2] (Cephes' coefficients, as in avx2.cpp).
static __m512 exp16(__m512 x) {
    x = _mm512_max_ps(x, _mm512_set1_ps(-110.0f)); // -inf too: 2^-158 is 0
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 y = _mm512_set1_ps(1.9875691500e-4f);
    for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f}) {
        y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(c));
    }
    y = _mm512_fmadd_ps(y, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
    return _mm512_scalef_ps(y, n);
}

float xq_avx512_softmax(float * s, int n, float * sum) {
    __m512 most = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    for (int i = 0; i < n; i += 16) {
        most = _mm512_max_ps(most, _mm512_loadu_ps(s + i));
    }
    const float top = _mm512_reduce_max_ps(most);
    if (!(top > -std::numeric_limits<float>::infinity())) {
        std::memset(s, 0, sizeof(float)*n);
        *sum = 0.0f;
        return top;
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
