// Sealing in AVX2. f32 without contraction, so that codes and metadata have the reference's bytes.
#include "format/xq_unbiased.h"
#include "kernels/cpu/avx2_bytes.h"
#include "kernels/cpu/seal_ranked.h"

#include <cmath>

using namespace xq_avx2;

namespace {

struct row32 {
    __m256 v[4];
    explicit row32(const float * x) {
        for (int j = 0; j < 4; ++j) {
            v[j] = _mm256_loadu_ps(x + 8*j);
        }
    }
    float lowest()  const { return hmin(_mm256_min_ps(_mm256_min_ps(v[0], v[1]), _mm256_min_ps(v[2], v[3]))); }
    float highest() const { return hmax(_mm256_max_ps(_mm256_max_ps(v[0], v[1]), _mm256_max_ps(v[2], v[3]))); }
    // in the order of xq_unbiased.h: the upper half of the lanes onto the lower
    float sum()     const { return hsum(_mm256_add_ps(_mm256_add_ps(v[0], v[2]), _mm256_add_ps(v[1], v[3]))); }
};

// Codes of eight lanes into their words: (x - lo)*inv, rounded, at bit `at`.
void put8(uint32_t * words, __m256 x, __m256 lo, __m256 inv, int n_max, __m128i at) {
    const __m256 t = _mm256_mul_ps(_mm256_sub_ps(x, lo), inv);
    __m256i c = _mm256_cvttps_epi32(_mm256_add_ps(t, _mm256_set1_ps(0.5f)));
    c = _mm256_max_epi32(_mm256_min_epi32(c, _mm256_set1_epi32(n_max)), _mm256_setzero_si256());
    __m256i * p = (__m256i *) words;
    _mm256_storeu_si256(p, _mm256_or_si256(_mm256_loadu_si256(p), _mm256_sll_epi32(c, at)));
}

void seal_ranked(const xq_side & side, const float * x, uint32_t * codes, uint8_t * meta) {
    xq_seal_ranked<row32>(side, x, codes, meta, [](const row32 & row, float base, float inv, int bits, uint32_t * start, int place) {
        uint32_t * words = start + (size_t) xq_code_word(place, bits)*XQ_LANES;
        for (int j = 0; j < 4; ++j) {
            put8(words + 8*j, row.v[j], _mm256_set1_ps(base), _mm256_set1_ps(inv), xq_code_max(bits), _mm_cvtsi32_si128((place*bits) & 31));
        }
    });
}

} // namespace

void xq_avx2_seal_unbiased(const xq_side & side, const float * x, int n, int lanes, const uint8_t * row_ok, uint32_t * codes, uint8_t * meta) {
    if (lanes != XQ_LANES || row_ok || side.bits == 3) { // rare: holes, or a short last strip; 3 bits are two planes
        return xq_ref_seal_unbiased(side, x, n, lanes, row_ok, codes, meta);
    }
    const int words = xq_side_words(side), bits = side.bits, n_max = xq_code_max(bits);
    const __m256 half = _mm256_set1_ps(xq_half_levels(bits)), round = _mm256_set1_ps(xq_half_levels(bits) + 0.5f);
    float scale[XQ_TILE], all = 0.0f;
    std::memset(codes, 0, sizeof(uint32_t)*n*words);
    for (int i = 0; i < side.rows; ++i) {
        const row32 a(x + (size_t) i*XQ_LANES), b(x + (size_t) (side.rows*(n - 1) + i)*XQ_LANES);
        row32 square = a, along = a;
        for (int j = 0; j < 4; ++j) {
            square.v[j] = _mm256_mul_ps(a.v[j], a.v[j]);
            if (n == 2) {
                square.v[j] = _mm256_add_ps(square.v[j], _mm256_mul_ps(b.v[j], b.v[j]));
            }
        }
        const float xx = square.sum();
        all += xx;
        const __m256 inv = _mm256_set1_ps(xq_unbiased_inv(std::sqrt(xx / (float) (n*XQ_LANES)), bits));
        const __m128i at = _mm_cvtsi32_si128((i*bits) & 31);
        for (int s = 0; s < n; ++s) {
            uint32_t * w = codes + (size_t) s*words + (size_t) xq_code_word(i, bits)*XQ_LANES;
            for (int j = 0; j < 4; ++j) {
                const __m256 v = s == 0 ? a.v[j] : b.v[j];
                __m256i c = _mm256_cvttps_epi32(_mm256_add_ps(_mm256_mul_ps(v, inv), round));
                c = _mm256_max_epi32(_mm256_min_epi32(c, _mm256_set1_epi32(n_max)), _mm256_setzero_si256());
                const __m256 part = _mm256_mul_ps(v, _mm256_sub_ps(_mm256_cvtepi32_ps(c), half));
                along.v[j] = s == 0 ? part : _mm256_add_ps(along.v[j], part);
                __m256i * p = (__m256i *) (w + 8*j);
                _mm256_storeu_si256(p, _mm256_or_si256(_mm256_loadu_si256(p), _mm256_sll_epi32(c, at)));
            }
        }
        scale[i] = xq_unbiased_scale(xx, along.sum());
    }
    if (!xq_is_finite(all)) { // numbers of pages are f16: squares of finite ones add up to a finite sum
        return xq_ref_seal_unbiased(side, x, n, lanes, row_ok, codes, meta);
    }
    xq_ref_write_log8(side.rows, scale, meta);
}

// Codes of a full strip whose owner has all rows and lanes; anything else (holes, followers, short strips) goes
// to the reference, which is rare: at most one strip a head at a head dim that is not a multiple of 32.
void xq_avx2_seal_strip(const xq_side & side, const float * x, const uint8_t * row_ok, uint32_t lane_mask,
                uint32_t * codes, bool leader, uint8_t * meta) {
    if (side.meta == XQ_META_RANKED && lane_mask == 0xFFFFFFFFu) {
        return seal_ranked(side, x, codes, meta);
    }
    if (leader || row_ok || lane_mask != 0xFFFFFFFFu || side.rows % 8 != 0 || side.meta == XQ_META_RANKED) {
        return xq_ref_seal_strip(side, x, row_ok, lane_mask, codes, leader, meta);
    }
    const int n_max = xq_code_max(side.bits);
    float scale[XQ_MAX_ROWS], zero[XQ_MAX_ROWS];
    std::memset(codes, 0, sizeof(uint32_t) * xq_strip_words(side.rows, side.bits));
    const int b0 = xq_plane_bits(side.bits, 0);
    uint32_t * high = codes + (size_t) xq_plane_words(side.rows, b0)*XQ_LANES;
    __m256i all = _mm256_setzero_si256();
    for (int i = 0; i < side.rows; ++i) {
        const float * row = x + (size_t) i*XQ_LANES;
        __m256 v[4], lo8, hi8;
        for (int j = 0; j < 4; ++j) {
            v[j] = _mm256_loadu_ps(row + 8*j);
        }
        lo8 = _mm256_min_ps(_mm256_min_ps(v[0], v[1]), _mm256_min_ps(v[2], v[3]));
        hi8 = _mm256_max_ps(_mm256_max_ps(v[0], v[1]), _mm256_max_ps(v[2], v[3]));
        const float lo = hmin(lo8), hi = hmax(hi8);
        scale[i] = xq_relaxed_scale(lo, hi, side.bits, side.eta);
        zero [i] = xq_relaxed_zero (lo, hi, side.eta);
        const __m256 lo1 = _mm256_set1_ps(lo), inv = _mm256_set1_ps(xq_group_inv(lo, hi, side.bits));
        uint32_t * w0 = codes + xq_code_word(i, b0)*XQ_LANES;
        uint32_t * w1 = high  + xq_code_word(i, 1)*XQ_LANES;
        const __m128i at0 = _mm_cvtsi32_si128((i*b0) & 31), at1 = _mm_cvtsi32_si128(i & 31);
        for (int j = 0; j < 4; ++j) {
            const __m256 t = _mm256_mul_ps(_mm256_sub_ps(v[j], lo1), inv);
            __m256i c = _mm256_cvttps_epi32(_mm256_add_ps(t, _mm256_set1_ps(0.5f)));
            c = _mm256_min_epi32(c, _mm256_set1_epi32(n_max));
            all = _mm256_or_si256(all, c);
            __m256i * p0 = (__m256i *) (w0 + 8*j);
            const __m256i low = _mm256_and_si256(c, _mm256_set1_epi32((1 << b0) - 1));
            _mm256_storeu_si256(p0, _mm256_or_si256(_mm256_loadu_si256(p0), _mm256_sll_epi32(low, at0)));
            if (side.bits == 3) {
                __m256i * p1 = (__m256i *) (w1 + 8*j);
                _mm256_storeu_si256(p1, _mm256_or_si256(_mm256_loadu_si256(p1), _mm256_sll_epi32(_mm256_srli_epi32(c, 2), at1)));
            }
        }
    }
    // Nothing is below its row's minimum: a code below 0 is what the conversion makes of numbers that are not finite.
    if (_mm256_movemask_ps(_mm256_castsi256_ps(all)) != 0) {
        return xq_ref_seal_strip(side, x, row_ok, lane_mask, codes, leader, meta);
    }
    xq_ref_write_meta(side, scale, zero, meta);
}
