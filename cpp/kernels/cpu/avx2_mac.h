// Products of packed keys, included by avx2.cpp and, with XQ_AVX_VNNI, by avx_vnni.cpp. Both give the same bits: sums of integers
// are exact until they are scaled.
//
// Without VNNI, per 128 2-bit codes: 1 load, 3 shifts, 4 ands, 8 maddubs, 8 adds (0.19 instructions a code).
#pragma once

#include "kernels/cpu/avx2_bytes.h"

namespace {

using namespace xq_avx2;

// Multipliers of a strip's rows as int8 pairs, in the byte order in which codes of one word meet them.
struct multipliers {
    alignas(32) int8_t hi[XQ_MAX_ROWS];
    alignas(32) int8_t lo[XQ_MAX_ROWS];
    float step; // 0: all multipliers are zero
};

// m holds zeros from `rows` up to the next multiple of 32.
void prepare(const float * m, int rows, int plane_bits, float top, multipliers & out) {
    out.step = top / STEPS;
    if (!(top > 0.0f)) {
        out.step = 0.0f;
        return;
    }
    const __m256 inv = _mm256_set1_ps(STEPS / top);
    const int padded = (rows + 31) & ~31;
    for (int i = 0; i < padded; i += 16) {
        __m128i h8, l8;
        to_bytes(_mm256_mul_ps(_mm256_loadu_ps(m + i), inv), _mm256_mul_ps(_mm256_loadu_ps(m + i + 8), inv), h8, l8);
        if (plane_bits == 2 || plane_bits == 4) {
            h8 = order16(h8, plane_bits);
            l8 = order16(l8, plane_bits);
        }
        _mm_store_si128((__m128i *) (out.hi + i), h8);
        _mm_store_si128((__m128i *) (out.lo + i), l8);
    }
    if (plane_bits == 1) {
        for (int i = 0; i < padded; i += 32) {
            order32_1bit(out.hi + i);
            order32_1bit(out.lo + i);
        }
    }
}

#if XQ_AVX_VNNI

// vpdpbusd adds four products up in 32 bits. Sixteen lanes together: with eight, a sum would wait for itself.
template <int B, int NH>
void mac_plane(int words, const uint32_t * codes, const multipliers * mu, float weight, float * acc, int ldc) {
    constexpr int FIELDS = 8 / B;
    const __m256i mask = _mm256_set1_epi8((char) ((1 << B) - 1));
    for (int l = 0; l < XQ_LANES; l += 16) {
        __m256i hi[NH][2], lo[NH][2];
        xq_each<NH>([&](auto h) XQ_INLINE { hi[h][0] = hi[h][1] = lo[h][0] = lo[h][1] = _mm256_setzero_si256(); });
        for (int w = 0; w < words; ++w) {
            const __m256i v0 = load8(codes + w*XQ_LANES + l), v1 = load8(codes + w*XQ_LANES + l + 8);
            xq_each<FIELDS>([&](auto k) XQ_INLINE {
                const __m256i c0 = _mm256_and_si256(_mm256_srli_epi32(v0, k*B), mask), c1 = _mm256_and_si256(_mm256_srli_epi32(v1, k*B), mask);
                const int at = (w*FIELDS + k)*4;
                xq_each<NH>([&](auto h) XQ_INLINE {
                    dot_two(hi[h], c0, c1, broadcast4(mu[h].hi + at));
                    dot_two(lo[h], c0, c1, broadcast4(mu[h].lo + at));
                });
            });
        }
        xq_each<NH>([&](auto h) XQ_INLINE {
            xq_each<2>([&](auto half) XQ_INLINE {
                float * out = acc + (size_t) h*ldc + l + 8*half;
                const __m256 f = _mm256_mul_ps(_mm256_cvtepi32_ps(sixteen_bits(hi[h][half], lo[h][half])), _mm256_set1_ps(mu[h].step * weight));
                _mm256_storeu_ps(out, _mm256_add_ps(_mm256_loadu_ps(out), f));
            });
        });
    }
}

#else

// One plane against NH sets of multipliers. An i16 sum takes 2*15*128 a step at 4 bits, 2*3*128 at 2, 2*128 at
// 1: it is widened after WORDS words, before it can overflow.
template <int B, int NH>
void mac_plane(int words, const uint32_t * codes, const multipliers * mu, float weight, float * acc, int ldc) {
    constexpr int FIELDS = 8 / B;
    constexpr int WORDS  = B == 4 ? 4 : 8;
    const __m256i mask = _mm256_set1_epi8((char) ((1 << B) - 1));
    const __m256i ones = _mm256_set1_epi16(1);
    for (int l = 0; l < XQ_LANES; l += 8) {
        __m256i wide[NH];
        for (int h = 0; h < NH; ++h) {
            wide[h] = _mm256_setzero_si256();
        }
        for (int w0 = 0; w0 < words; w0 += WORDS) {
            const int w1 = w0 + WORDS < words ? w0 + WORDS : words;
            __m256i hi[NH], lo[NH];
            for (int h = 0; h < NH; ++h) {
                hi[h] = lo[h] = _mm256_setzero_si256();
            }
            for (int w = w0; w < w1; ++w) {
                const __m256i v = _mm256_loadu_si256((const __m256i *) (codes + w*XQ_LANES + l));
                for (int k = 0; k < FIELDS; ++k) {
                    const __m256i c = _mm256_and_si256(_mm256_srli_epi32(v, k*B), mask);
                    const int at = (w*FIELDS + k)*4;
                    for (int h = 0; h < NH; ++h) {
                        hi[h] = _mm256_add_epi16(hi[h], _mm256_maddubs_epi16(c, broadcast4(mu[h].hi + at)));
                        lo[h] = _mm256_add_epi16(lo[h], _mm256_maddubs_epi16(c, broadcast4(mu[h].lo + at)));
                    }
                }
            }
            for (int h = 0; h < NH; ++h) {
                const __m256i top = _mm256_slli_epi32(_mm256_madd_epi16(hi[h], ones), 8);
                wide[h] = _mm256_add_epi32(wide[h], _mm256_add_epi32(top, _mm256_madd_epi16(lo[h], ones)));
            }
        }
        for (int h = 0; h < NH; ++h) {
            float * out = acc + (size_t) h*ldc + l;
            const __m256 f = _mm256_mul_ps(_mm256_cvtepi32_ps(wide[h]), _mm256_set1_ps(mu[h].step * weight));
            _mm256_storeu_ps(out, _mm256_add_ps(_mm256_loadu_ps(out), f));
        }
    }
}

// 8-bit rows: four to a word, one a byte. Their halves are multiplied as 4-bit codes, which maddubs cannot saturate.
void mac_bytes(int words, const uint32_t * codes, const multipliers & mu, float * acc) {
    constexpr int WORDS = 8; // an i16 sum takes 2*15*128 a word
    const __m256i mask = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    for (int l = 0; l < XQ_LANES; l += 8) {
        __m256i wide = _mm256_setzero_si256();
        for (int w0 = 0; w0 < words; w0 += WORDS) {
            __m256i sum[4]; // the multiplier's hi, then lo, each against the codes' upper and lower half
            for (auto & s : sum) {
                s = _mm256_setzero_si256();
            }
            for (int w = w0; w < words && w < w0 + WORDS; ++w) {
                const __m256i v   = _mm256_loadu_si256((const __m256i *) (codes + w*XQ_LANES + l));
                const __m256i low = _mm256_and_si256(v, mask), high = _mm256_and_si256(_mm256_srli_epi32(v, 4), mask);
                const __m256i hi  = broadcast4(mu.hi + 4*w), lo = broadcast4(mu.lo + 4*w);
                sum[0] = _mm256_add_epi16(sum[0], _mm256_maddubs_epi16(high, hi));
                sum[1] = _mm256_add_epi16(sum[1], _mm256_maddubs_epi16(low,  hi));
                sum[2] = _mm256_add_epi16(sum[2], _mm256_maddubs_epi16(high, lo));
                sum[3] = _mm256_add_epi16(sum[3], _mm256_maddubs_epi16(low,  lo));
            }
            for (int k = 0; k < 4; ++k) {
                const __m128i shift = _mm_cvtsi32_si128((k < 2 ? 8 : 0) + (k % 2 == 0 ? 4 : 0));
                wide = _mm256_add_epi32(wide, _mm256_sll_epi32(_mm256_madd_epi16(sum[k], ones), shift));
            }
        }
        const __m256 f = _mm256_mul_ps(_mm256_cvtepi32_ps(wide), _mm256_set1_ps(mu.step));
        _mm256_storeu_ps(acc + l, _mm256_add_ps(_mm256_loadu_ps(acc + l), f));
    }
}

#endif

template <int B>
void mac_rows(int n, int words, const uint32_t * codes, const multipliers * mu, float weight, float * acc, int ldc) {
    for (; n >= 3; n -= 3, mu += 3, acc += 3*(size_t) ldc) {
        mac_plane<B, 3>(words, codes, mu, weight, acc, ldc);
    }
    if (n == 2) {
        mac_plane<B, 2>(words, codes, mu, weight, acc, ldc);
    } else if (n == 1) {
        mac_plane<B, 1>(words, codes, mu, weight, acc, ldc);
    }
}

// Rows of 8 bits.
void mac_eight(int n, int words, const uint32_t * codes, const multipliers * mu, float * acc, int ldc) {
#if XQ_AVX_VNNI
    mac_rows<8>(n, words, codes, mu, 1.0f, acc, ldc);
#else
    for (int j = 0; j < n; ++j) {
        mac_bytes(words, codes, mu[j], acc + (size_t) j*ldc);
    }
#endif
}

float abs_max(const float * m, int padded) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 top = _mm256_setzero_ps();
    for (int i = 0; i < padded; i += 8) {
        top = _mm256_max_ps(top, _mm256_andnot_ps(sign, _mm256_loadu_ps(m + i)));
    }
    return hmax(top);
}

void mac(int bits, int rows, const uint32_t * codes, const float * m, int m_stride, int n, float * acc, int ldc) {
    constexpr int BATCH = 6;
    multipliers mu[BATCH];
    const int padded = (rows + 31) & ~31;
    for (int j0 = 0; j0 < n; j0 += BATCH) {
        const int nj = n - j0 < BATCH ? n - j0 : BATCH;
        const uint32_t * plane = codes;
        int shift = 0;
        for (int p = 0; p < xq_n_planes(bits); ++p) {
            const int b = xq_plane_bits(bits, p);
            const int words = xq_plane_words(rows, b);
            for (int j = 0; j < nj; ++j) {
                const float * mj = m + (size_t) (j0 + j)*m_stride;
                prepare(mj, rows, b, abs_max(mj, padded), mu[j]);
            }
            const float weight = (float) (1 << shift);
            float * out = acc + (size_t) j0*ldc;
            switch (b) {
                case 1:  mac_rows<1>(nj, words, plane, mu, weight, out, ldc); break;
                case 2:  mac_rows<2>(nj, words, plane, mu, weight, out, ldc); break;
                case 8:  mac_eight(nj, words, plane, mu, out, ldc); break;
                default: mac_rows<4>(nj, words, plane, mu, weight, out, ldc); break;
            }
            plane += (size_t) words * XQ_LANES;
            shift += b;
        }
    }
}

} // namespace
