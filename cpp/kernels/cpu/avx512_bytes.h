// Multipliers as bytes, for vpdpbusd: what avx512.cpp (keys) and avx512_values.cpp share.
//
// vpdpbusd multiplies four unsigned codes of each of 16 lanes by four signed bytes and adds them up, so that a masked
// word meets four rows' multipliers in one instruction: 64 codes, against 32 in avx2's two. Multipliers have 15 bits
// as there, m = step * (256*hi + lo). Sums stay in 32 bits: 256 rows * 255 * 32512 is just below 2^31.
// 8 bits are too few: a step's attention took 14 % less time with them in values of 1 and 2 bits, but weights under 1/254 of the
// largest became 0, many small ones together as much as it (NMSE up to 2e-3). For keys they gained 2 %.
#pragma once

#include "format/xq_format.h"
#include "kernels/cpu/each.h"

#include <immintrin.h>

#include <array>
#include <cstring>

namespace xq_avx512 {

constexpr int BATCH = 4;            // rows of multipliers that meet a word together
constexpr float STEPS = 32512.0f;   // of the largest multiplier

using bytes64 = std::array<uint8_t, 64>;

// Rows of whole words, in ascending order, to the order in which fields meet them: byte b of field k of a word is its
// row b*(8/bits) + k. Repeats with every word.
constexpr bytes64 word_order(int bits) {
    bytes64 at{};
    const int fields = 8/bits, rows = 32/bits;
    for (int i = 0; i < 64; ++i) {
        at[i] = (uint8_t) (i/rows*rows + i%4*fields + i%rows/4);
    }
    return at;
}

inline __m512i load(const void * p) { return _mm512_loadu_si512(p); }
inline __m512i four_bytes(const int8_t * p) { int v; std::memcpy(&v, p, 4); return _mm512_set1_epi32(v); }

inline uint16_t load_u16(const uint8_t * p) { uint16_t v; std::memcpy(&v, p, 2); return v; }
inline float    load_f16(const uint8_t * p) { return _cvtsh_ss(load_u16(p)); }

// acc += four bytes of m, the same for all lanes, times the bytes of c. As assembly where that is understood: GCC 12
// copies every accumulator once more an iteration around its intrinsic.
inline void dot(__m512i & acc, __m512i c, __m512i m) {
#if defined(__GNUC__)
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(c), "v"(m));
#else
    acc = _mm512_dpbusd_epi32(acc, c, m);
#endif
}

// 64 multipliers, already in steps, as 16-bit numbers. `low_byte` tells where they are: packs works by quarters.
struct shorts { __m512i a, b; };
inline shorts to_shorts(const __m512 * m) {
    return {_mm512_packs_epi32(_mm512_cvtps_epi32(m[0]), _mm512_cvtps_epi32(m[1])), _mm512_packs_epi32(_mm512_cvtps_epi32(m[2]), _mm512_cvtps_epi32(m[3]))};
}
constexpr int low_byte(int i) { return i/32*64 + i%16/4*16 + i%32/16*8 + i%4*2; }

// lo is a number's own low byte, hi the high byte after rounding. at: low_byte of the multipliers wanted.
struct halves { __m512i hi, lo; };
inline halves bytes_at(const shorts & m, __m512i at) {
    const __m512i half = _mm512_set1_epi16(128), high = _mm512_or_si512(at, _mm512_set1_epi8(1));
    return {_mm512_permutex2var_epi8(_mm512_add_epi16(m.a, half), high, _mm512_add_epi16(m.b, half)), _mm512_permutex2var_epi8(m.a, at, m.b)};
}

// Where all 64 are, in row order.
alignas(64) constexpr bytes64 LOW_BYTES = [] {
    bytes64 at{};
    for (int i = 0; i < 64; ++i) {
        at[i] = (uint8_t) low_byte(i);
    }
    return at;
}();

// One number out of each of four vectors, by an operation on pairs.
template <class Op> inline __m128 of_four(const __m512 * v, Op op) {
    const __m512 a = op(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    const __m512 b = op(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    const __m512 c = op(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xEE)); // v0..v3 in every quarter
    const __m512 d = op(c, _mm512_shuffle_f32x4(c, c, 0x4E));
    return _mm512_castps512_ps128(op(d, _mm512_shuffle_f32x4(d, d, 0xB1)));
}
inline __m128 maxima(const __m512 * v) { return of_four(v, [](__m512 a, __m512 b) { return _mm512_max_ps(a, b); }); }
inline __m128 sums(const __m512 * v)   { return of_four(v, [](__m512 a, __m512 b) { return _mm512_add_ps(a, b); }); }

// Steps a unit, for multipliers of up to `top`; none where all are 0.
inline __m128 inverses(__m128 top) { return _mm_and_ps(_mm_cmpgt_ps(top, _mm_setzero_ps()), _mm_div_ps(_mm_set1_ps(STEPS), top)); }

} // namespace xq_avx512
