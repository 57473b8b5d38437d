// AVX-512 with VNNI and VBMI (Ice Lake, Zen 4 and later): avx2's primitives, and products of its own.
//
// vpdpbusd multiplies four unsigned codes of each of 16 lanes by four signed bytes and adds them up, so a masked
// word meets its four rows' multipliers in one instruction: 64 codes, against 32 in avx2's two. Multipliers have
// 15 bits as there, m = step * (256*hi + lo), with a step for every width: rows of 8 bits have far smaller scales than
// rows of 4. Sums stay in 32 bits: 256 rows * 255 * 32512 is just below 2^31.
#include "format/xq_ranked.h"
#include "format/xq_unbiased.h"
#include "kernels/cpu/avx512.h"

#include <immintrin.h>

#include <algorithm>
#include <cstring>

namespace {

constexpr int BATCH = 8;                                    // rows of multipliers on the stack
constexpr int ROOM  = XQ_MAX_HEAD_DIM + 4*XQ_LANES + 64;    // bytes of a row: every segment starts at a multiple of 32

// Codes of one width: `words` of a lane from `word` on, their multipliers from byte `at` on.
struct part {
    int bits, word, words, at;
    float weight; // 4 for the high bits of 3-bit codes
};
struct parts {
    int n = 0;
    part list[4];
    void add(int bits, int rows, int word, int at, float weight = 1.0f) { list[n++] = {bits, word, xq_class_words(rows, bits), at, weight}; }
};

struct multipliers {
    alignas(64) int8_t hi[ROOM];
    alignas(64) int8_t lo[ROOM];
    float step[4]; // by part
};

// Rows in order to the order in which a word's fields meet them: field k, byte b holds row b*(8/bits) + k of each word.
__m512i word_order(int bits) {
    alignas(64) uint8_t at[64];
    const int fields = 8/bits, rows = 32/bits;
    for (int i = 0; i < 64; ++i) {
        at[i] = (uint8_t) (i/rows*rows + i%4*fields + i%rows/4);
    }
    return _mm512_load_si512(at);
}
const __m512i & word_order_of(int bits) {
    static const __m512i order[4] = {word_order(1), word_order(2), word_order(4), word_order(8)};
    return order[bits == 1 ? 0 : bits == 2 ? 1 : bits == 4 ? 2 : 3];
}

void order_part(int8_t * bytes, const part & p) {
    const __m512i order = word_order_of(p.bits);
    const int rows = p.words*32/p.bits;
    for (int i = 0; i < rows; i += 64) { // the next part may start within the last block
        const __mmask64 mine = rows - i >= 64 ? ~0ull : (1ull << (rows - i)) - 1;
        _mm512_mask_storeu_epi8(bytes + p.at + i, mine, _mm512_permutexvar_epi8(order, _mm512_loadu_si512(bytes + p.at + i)));
    }
}

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

// The largest element of each of four vectors.
__m128 maxima(const __m512 * v) {
    const __m512 a = _mm512_max_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    const __m512 b = _mm512_max_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    const __m512 c = _mm512_max_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xEE)); // v0..v3 in every quarter
    const __m256 d = _mm256_max_ps(_mm512_castps512_ps256(c), _mm512_extractf32x8_ps(c, 1));
    return _mm_max_ps(_mm256_castps256_ps128(d), _mm256_extractf128_ps(d, 1));
}

float step_of(float top)    { return top > 0.0f ? top / 32512.0f : 0.0f; }
float inverse_of(float top) { return top > 0.0f ? 32512.0f / top : 0.0f; }

__m512i four_bytes(const int8_t * p) { int v; std::memcpy(&v, p, 4); return _mm512_set1_epi32(v); }

// total[r] += codes of part i, 16 lanes, against NR rows of multipliers.
template <int B, int NR> void add_part(const part & p, int i, const uint32_t * codes, const multipliers * mu, __m512 * total) {
    constexpr int FIELDS = 8 / B;
    const __m512i mask = _mm512_set1_epi8((char) ((1 << B) - 1));
    __m512i hi[NR], lo[NR];
    for (int r = 0; r < NR; ++r) {
        hi[r] = lo[r] = _mm512_setzero_si512();
    }
    for (int w = 0; w < p.words; ++w) {
        const __m512i v = _mm512_loadu_si512(codes + (size_t) (p.word + w)*XQ_LANES);
        for (int k = 0; k < FIELDS; ++k) {
            const __m512i c = B == 8 ? v : _mm512_and_si512(_mm512_srli_epi32(v, k*B), mask);
            const int at = p.at + (w*FIELDS + k)*4;
            for (int r = 0; r < NR; ++r) {
                hi[r] = _mm512_dpbusd_epi32(hi[r], c, four_bytes(mu[r].hi + at));
                lo[r] = _mm512_dpbusd_epi32(lo[r], c, four_bytes(mu[r].lo + at));
            }
        }
    }
    for (int r = 0; r < NR; ++r) {
        const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(hi[r], 8), lo[r]);
        total[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(mu[r].step[i]*p.weight), total[r]);
    }
}

// out[r][32] (+)= offset[r] + sum of all parts.
template <int NR>
void product(const parts & ps, const uint32_t * codes, const multipliers * mu, const float * offset, bool add, float * out, int ldo) {
    for (int l = 0; l < XQ_LANES; l += 16) {
        __m512 total[NR];
        for (int r = 0; r < NR; ++r) {
            total[r] = _mm512_set1_ps(offset[r]);
        }
        for (int i = 0; i < ps.n; ++i) {
            switch (ps.list[i].bits) {
                case 1:  add_part<1, NR>(ps.list[i], i, codes + l, mu, total); break;
                case 2:  add_part<2, NR>(ps.list[i], i, codes + l, mu, total); break;
                case 4:  add_part<4, NR>(ps.list[i], i, codes + l, mu, total); break;
                default: add_part<8, NR>(ps.list[i], i, codes + l, mu, total); break;
            }
        }
        for (int r = 0; r < NR; ++r) {
            float * o = out + (size_t) r*ldo + l;
            _mm512_storeu_ps(o, add ? _mm512_add_ps(_mm512_loadu_ps(o), total[r]) : total[r]);
        }
    }
}

void product_rows(int n, const parts & ps, const uint32_t * codes, const multipliers * mu, const float * offset, bool add, float * out, int ldo) {
    for (; n >= 4; n -= 4, mu += 4, offset += 4, out += 4*(size_t) ldo) {
        product<4>(ps, codes, mu, offset, add, out, ldo);
    }
    switch (n) {
        case 3: product<3>(ps, codes, mu, offset, add, out, ldo); break;
        case 2: product<2>(ps, codes, mu, offset, add, out, ldo); break;
        case 1: product<1>(ps, codes, mu, offset, add, out, ldo); break;
        default: break;
    }
}

// ---- keys --------------------------------------------------------------------------------------------------

uint16_t load_u16(const uint8_t * p) { uint16_t v; std::memcpy(&v, p, 2); return v; }
float    load_f16(const uint8_t * p) { return _cvtsh_ss(load_u16(p)); }

// What a strip's rows share for all queries.
struct key_strip {
    int vectors;                    // of 16 rows
    parts ps;
    __m512 scale[XQ_MAX_HEAD_DIM/16], zero[XQ_MAX_HEAD_DIM/16], levels[XQ_MAX_HEAD_DIM/16];
    uint64_t rows_of[4][XQ_MAX_HEAD_DIM/64] = {}; // ranked: rows of every part

    // Rows of a part among the 16 of vector i.
    __mmask16 mask(int p, int i) const { return (__mmask16) (rows_of[p][i/4] >> 16*(i%4)); }

    // Ranked, from its metadata (xq_ranked.h).
    void read_ranked(const xq_side & side, const uint8_t * meta) {
        const int rows = side.rows, fine = xq_fine(side);
        const uint8_t * low = meta + XQ_RANKED_HEAD, * high = low + rows/8;
        const uint8_t * scales = meta + xq_ranked_scale_at(rows), * mids = meta + xq_ranked_mid_at(rows);
        const __m512i lowest = _mm512_set1_epi32(load_u16(meta)), step = _mm512_set1_epi32(load_u16(meta + 2)), one = _mm512_set1_epi32(1);
        const __m512 lo0 = _mm512_set1_ps(load_f16(meta + 4)), lo1 = _mm512_set1_ps(load_f16(meta + 8));
        const __m512 st0 = _mm512_set1_ps(load_f16(meta + 6)), st1 = _mm512_set1_ps(load_f16(meta + 10));
        __m512 most[XQ_CLASSES]; // largest code
        for (int c = 0; c < XQ_CLASSES; ++c) {
            most[c] = _mm512_set1_ps((float) xq_code_max(xq_class_bits(c, fine)));
        }
        for (int i = 0; i < vectors; ++i) {
            const __mmask16 l = load_u16(low + 2*i), h = load_u16(high + 2*i), wide = fine ? h : (__mmask16) (l & h);
            const __m128i pair = _mm_loadl_epi64((const __m128i *) (scales + 8*i)), nibble = _mm_set1_epi8(15);
            const __m512i u = _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(_mm_and_si128(pair, nibble), _mm_and_si128(_mm_srli_epi16(pair, 4), nibble)));
            const __m512i log = _mm512_add_epi32(lowest, _mm512_mullo_epi32(_mm512_sub_epi32(u, one), step));
            scale[i] = _mm512_castsi512_ps(_mm512_maskz_slli_epi32(_mm512_cmpge_epi32_mask(u, one), log, 16));
            const __m512 at = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *) (mids + 16*i))));
            const __m512 mid = _mm512_add_ps(_mm512_mask_blend_ps(wide, lo0, lo1), _mm512_mul_ps(_mm512_mask_blend_ps(wide, st0, st1), at));
            levels[i] = _mm512_mask_blend_ps(h, _mm512_mask_blend_ps(l, most[0], most[1]), _mm512_mask_blend_ps(l, most[2], most[3]));
            zero[i] = _mm512_sub_ps(mid, _mm512_mul_ps(scale[i], _mm512_mul_ps(levels[i], _mm512_set1_ps(0.5f))));
        }
        int word = 0, at = 0;
        for (int c = XQ_CLASSES - 1; c >= (fine ? 0 : 1); --c) {
            int n = 0;
            for (int i = 0; i < (rows + 63)/64; ++i) {
                uint64_t l = 0, h = 0;
                const size_t bytes = std::min(8, rows/8 - 8*i);
                std::memcpy(&l, low + 8*i, bytes);
                std::memcpy(&h, high + 8*i, bytes);
                const uint64_t in = (c & 1 ? l : ~l) & (c & 2 ? h : ~h) & (bytes == 8 ? ~0ull : (1ull << 8*bytes) - 1);
                rows_of[ps.n][i] = in;
                n += (int) _mm_popcnt_u64(in);
            }
            if (n > 0) {
                const int bits = xq_class_bits(c, fine);
                ps.add(bits, n, word, at);
                word += xq_class_words(n, bits);
                at   += (n + 31) & ~31;
            }
        }
    }

    void read_uniform(const xq_side & side, const uint8_t * meta) {
        alignas(64) float s[XQ_MAX_HEAD_DIM], z[XQ_MAX_HEAD_DIM];
        xq_kernels_avx2.read_meta(side, meta, s, z);
        for (int i = 0; i < vectors; ++i) {
            scale[i]  = _mm512_load_ps(s + 16*i);
            zero[i]   = _mm512_load_ps(z + 16*i);
            levels[i] = _mm512_set1_ps((float) xq_code_max(side.bits));
        }
        ps.add(side.bits == 3 ? 2 : side.bits, side.rows, 0, 0);
        if (side.bits == 3) { // the plane of high bits
            ps.add(1, side.rows, xq_plane_words(side.rows, 2), (side.rows + 31) & ~31, 4.0f);
        }
    }
};

// Multipliers of a query, in the order in which codes meet them. Returns whether a channel's share is too large.
template <bool RANKED> bool prepare(const key_strip & k, const float * q, multipliers & out, float & offset) {
    constexpr int WIDTHS = RANKED ? 4 : 1; // classes that the strip does not have are empty
    __m512 m[XQ_MAX_HEAD_DIM/16], sum = _mm512_setzero_ps(), share = sum, top[4] = {sum, sum, sum, sum};
    for (int i = 0; i < k.vectors; ++i) {
        const __m512 qi = _mm512_loadu_ps(q + 16*i);
        m[i] = _mm512_mul_ps(qi, k.scale[i]);
        sum  = _mm512_fmadd_ps(qi, k.zero[i], sum);
        const __m512 size = _mm512_abs_ps(m[i]);
        share = _mm512_max_ps(share, _mm512_mul_ps(size, k.levels[i]));
        for (int p = 0; p < WIDTHS; ++p) {
            top[p] = RANKED ? _mm512_mask_max_ps(top[p], k.mask(p, i), top[p], size) : _mm512_max_ps(top[p], size);
        }
    }
    offset = _mm512_reduce_add_ps(sum);
    const __m128 most = maxima(top);
    _mm_storeu_ps(out.step, _mm_mul_ps(most, _mm_set1_ps(1.0f/32512.0f)));
    const __m128 inv4 = _mm_and_ps(_mm_cmpgt_ps(most, _mm_setzero_ps()), _mm_div_ps(_mm_set1_ps(32512.0f), most));
    __m512 inv_of[4];
    for (int p = 0; p < WIDTHS; ++p) {
        inv_of[p] = _mm512_permutexvar_ps(_mm512_set1_epi32(p), _mm512_castps128_ps512(inv4));
    }
    if (!RANKED) {
        out.step[1] = out.step[0]; // 3 bits: both planes
    }
    const int blocks = (k.vectors + 3)/4;
    __m512i hi[XQ_MAX_HEAD_DIM/64], lo[XQ_MAX_HEAD_DIM/64];
    for (int b = 0; b < blocks; ++b) {
        __m512 steps[4];
        for (int i = 0; i < 4; ++i) {
            steps[i] = _mm512_setzero_ps();
            if (4*b + i < k.vectors) {
                __m512 inv = inv_of[0];
                for (int p = 1; p < WIDTHS; ++p) {
                    inv = _mm512_mask_mov_ps(inv, k.mask(p, 4*b + i), inv_of[p]);
                }
                steps[i] = _mm512_mul_ps(m[4*b + i], inv);
            }
        }
        to_bytes(steps, hi[b], lo[b]);
    }
    for (int p = 0; p < k.ps.n; ++p) {
        int at = k.ps.list[p].at;
        for (int b = 0; b < blocks; ++b) { // what follows a part's rows is overwritten by its next block or the next part
            const uint64_t in = RANKED ? k.rows_of[p][b] : ~0ull;
            __m512i h = _mm512_maskz_compress_epi8(in, hi[b]), l = _mm512_maskz_compress_epi8(in, lo[b]);
            if (blocks == 1) { // in registers: memory would wait for several stores
                h = _mm512_permutexvar_epi8(word_order_of(k.ps.list[p].bits), h);
                l = _mm512_permutexvar_epi8(word_order_of(k.ps.list[p].bits), l);
            }
            _mm512_storeu_si512(out.hi + at, h);
            _mm512_storeu_si512(out.lo + at, l);
            at += (int) _mm_popcnt_u64(in);
        }
    }
    for (int p = 0; blocks > 1 && p < k.ps.n; ++p) {
        order_part(out.hi, k.ps.list[p]);
        order_part(out.lo, k.ps.list[p]);
    }
    return _mm512_reduce_max_ps(share) > XQ_MAX_SHARE;
}

} // namespace

uint64_t xq_avx512_key_scores(const xq_side & side, const uint32_t * codes, const uint8_t * meta, const float * q, int ldq, int n, float * s, int lds) {
    // rows in whole vectors; a second copy of 3-bit multipliers must fit
    if (side.rows % 16 != 0 || (side.bits == 3 && side.rows > 128)) {
        return xq_kernels_avx2.key_scores(side, codes, meta, q, ldq, n, s, lds);
    }
    const bool ranked = side.meta == XQ_META_RANKED;
    key_strip k;
    k.vectors = side.rows/16;
    ranked ? k.read_ranked(side, meta) : k.read_uniform(side, meta);
    multipliers mu[BATCH];
    float offset[BATCH];
    uint64_t coarse = 0;
    for (int j0 = 0; j0 < n; j0 += BATCH) {
        const int nj = std::min(BATCH, n - j0);
        for (int j = 0; j < nj; ++j) {
            const float * qj = q + (size_t) (j0 + j)*ldq;
            coarse |= (uint64_t) (ranked ? prepare<true>(k, qj, mu[j], offset[j]) : prepare<false>(k, qj, mu[j], offset[j])) << (j0 + j);
        }
        product_rows(nj, k.ps, codes, mu, offset, false, s + (size_t) j0*lds, lds);
    }
    return coarse;
}

// ---- values ------------------------------------------------------------------------------------------------

void xq_avx512_add_values(const xq_side & side, const uint32_t * codes, const uint8_t * meta, const float * p, int ldp, int n, float * o, int ldo) {
    const int words = xq_side_words(side);
    parts ps;
    ps.add(side.bits == 3 ? 2 : side.bits, XQ_TILE, 0, 0);
    if (side.bits == 3) {
        ps.add(1, XQ_TILE, xq_plane_words(XQ_TILE, 2), XQ_TILE, 4.0f);
    }
    multipliers mu[BATCH];
    float offset[BATCH];
    alignas(64) float scale[XQ_TILE], zero[XQ_TILE];
    for (int g = 0; g < side.strips;) {
        int end = g + 1; // strips that share these scales
        while (end < side.strips && xq_meta_at(side, end) == xq_meta_at(side, g)) {
            ++end;
        }
        xq_kernels_avx2.read_meta(side, meta + xq_meta_at(side, g), scale, zero);
        for (int j0 = 0; j0 < n; j0 += BATCH) {
            const int nj = std::min(BATCH, n - j0);
            for (int j = 0; j < nj; ++j) {
                const float * pj = p + (size_t) (j0 + j)*ldp;
                const __m512 p0 = _mm512_loadu_ps(pj), p1 = _mm512_loadu_ps(pj + 16);
                const __m512 m[2] = {_mm512_mul_ps(p0, _mm512_load_ps(scale)), _mm512_mul_ps(p1, _mm512_load_ps(scale + 16))};
                const float top = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(m[0]), _mm512_abs_ps(m[1])));
                offset[j] = _mm512_reduce_add_ps(_mm512_fmadd_ps(p0, _mm512_load_ps(zero), _mm512_mul_ps(p1, _mm512_load_ps(zero + 16))));
                mu[j].step[0] = mu[j].step[1] = step_of(top);
                const __m512 inv = _mm512_set1_ps(inverse_of(top));
                const __m512 steps[4] = {_mm512_mul_ps(m[0], inv), _mm512_mul_ps(m[1], inv), _mm512_setzero_ps(), _mm512_setzero_ps()};
                __m512i hi, lo;
                to_bytes(steps, hi, lo);
                for (int i = 0; i < ps.n; ++i) {
                    const __m512i order = word_order_of(ps.list[i].bits);
                    _mm512_storeu_si512(mu[j].hi + ps.list[i].at, _mm512_permutexvar_epi8(order, hi));
                    _mm512_storeu_si512(mu[j].lo + ps.list[i].at, _mm512_permutexvar_epi8(order, lo));
                }
            }
            for (int h = g; h < end; ++h) {
                product_rows(nj, ps, codes + (size_t) h*words, mu, offset, true, o + (size_t) j0*ldo + h*XQ_LANES, ldo);
            }
        }
        g = end;
    }
}
