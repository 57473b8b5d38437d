// Multipliers as bytes, for maddubs or vpdpbusd: what avx2_mac.h (keys) and avx2_values.h share.
//
// Multipliers are quantised to 15 bits, m = step * (256*hi + lo) with hi and lo in int8. A word holds one lane's rows;
// (word >> k) & mask leaves four of them in its bytes, which maddubs multiplies by four broadcast int8 multipliers. hi and
// lo share the unpacked codes, so 15 bits cost half as much again as 8.
#pragma once

#include "kernels/cpu/each.h"
#include "kernels/cpu/kernels.h"

#include <immintrin.h>

#include <cstring>

// As xq_cpu_kernels::add_values.
void xq_avx2_add_values(const xq_side & side, const xq_sealed_tiles & tiles, const float * p, int ldp, int n, float * o, int ldo);

// As xq_cpu_kernels::seal_strip and seal_unbiased.
void xq_avx2_seal_strip(const xq_side & side, const float * x, const uint8_t * row_ok, uint32_t lane_mask, uint32_t * codes, bool leader, uint8_t * meta);
void xq_avx2_seal_unbiased(const xq_side & side, const float * x, int n, int lanes, const uint8_t * row_ok, uint32_t * codes, uint8_t * meta);

namespace xq_avx2 {

constexpr float STEPS = 32512.0f; // of the largest multiplier

inline float hmax(__m256 v) {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    x = _mm_max_ss(x, _mm_movehdup_ps(x));
    return _mm_cvtss_f32(x);
}
inline float hmin(__m256 v) {
    __m128 x = _mm_min_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    x = _mm_min_ps(x, _mm_movehl_ps(x, x));
    x = _mm_min_ss(x, _mm_movehdup_ps(x));
    return _mm_cvtss_f32(x);
}
inline float hsum(__m256 v) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    x = _mm_add_ss(x, _mm_movehdup_ps(x));
    return _mm_cvtss_f32(x);
}

inline __m256i broadcast4(const int8_t * p) { int v; std::memcpy(&v, p, 4); return _mm256_set1_epi32(v); }

#if XQ_AVX_VNNI
inline __m256i load8(const uint32_t * p) { return _mm256_loadu_si256((const __m256i *) p); }

// acc += four bytes of m times those of c, in two vectors. As assembly, for GCC 12's copies (avx512_bytes.h).
inline void dot_two(__m256i * acc, __m256i c0, __m256i c1, __m256i m) {
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc[0]) : "x"(c0), "x"(m));
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc[1]) : "x"(c1), "x"(m));
}

inline __m256i sixteen_bits(__m256i hi, __m256i lo) { return _mm256_add_epi32(_mm256_slli_epi32(hi, 8), lo); }
#endif

// 16 multipliers, already in steps, to bytes in row order.
inline void to_bytes(__m256 m0, __m256 m1, __m128i & hi8, __m128i & lo8) {
    const __m256i q  = _mm256_permute4x64_epi64(_mm256_packs_epi32(_mm256_cvtps_epi32(m0), _mm256_cvtps_epi32(m1)), 0xD8);
    const __m256i hi = _mm256_srai_epi16(_mm256_adds_epi16(q, _mm256_set1_epi16(128)), 8);
    const __m256i lo = _mm256_sub_epi16(q, _mm256_slli_epi16(hi, 8));
    hi8 = _mm_packs_epi16(_mm256_castsi256_si128(hi), _mm256_extracti128_si256(hi, 1));
    lo8 = _mm_packs_epi16(_mm256_castsi256_si128(lo), _mm256_extracti128_si256(lo, 1));
}

// 16 int8 values of rows 0..15 into word order. Bits 2: byte b, field k holds row 4b+k -> a 4x4 transpose.
// Bits 4: rows 2b+k within each half. Bits 1 need 32 rows and are handled by their caller.
inline __m128i order16(__m128i v, int plane_bits) {
    const __m128i by2 = _mm_setr_epi8(0,4,8,12, 1,5,9,13, 2,6,10,14, 3,7,11,15);
    const __m128i by4 = _mm_setr_epi8(0,2,4,6, 1,3,5,7, 8,10,12,14, 9,11,13,15);
    return _mm_shuffle_epi8(v, plane_bits == 2 ? by2 : by4);
}

// 32 rows of 1-bit codes: byte b, field k holds row 8b+k.
inline void order32_1bit(int8_t * rows) {
    const __m128i pairs = _mm_setr_epi8(0,8, 1,9, 2,10, 3,11, 4,12, 5,13, 6,14, 7,15);
    const __m128i a = _mm_shuffle_epi8(_mm_load_si128((const __m128i *) rows),        pairs); // bytes 0, 1
    const __m128i b = _mm_shuffle_epi8(_mm_load_si128((const __m128i *) (rows + 16)), pairs); // bytes 2, 3
    _mm_store_si128((__m128i *) rows,        _mm_unpacklo_epi16(a, b));
    _mm_store_si128((__m128i *) (rows + 16), _mm_unpackhi_epi16(a, b));
}

} // namespace xq_avx2
