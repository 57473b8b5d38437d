// The product of keys in AVX-512.
//
// A *field* is what one mask takes out of a word: four rows of every lane. Words of all widths become one list of fields,
// walked by one loop. Branching on each word's width was slower by a third of a decode step's attention (SmolLM2, 8192
// tokens): ranked strips choose their widths tile by tile, which no branch predictor learns.
#pragma once

#include "format/xq_ranked.h"
#include "kernels/cpu/avx512_bytes.h"

namespace xq_avx512 {

constexpr int MOST_FIELDS = 192;             // 256 rows of 3 bits take 128, and a class is written as if it had 256 rows
constexpr int ROOM        = 4*MOST_FIELDS;   // bytes of multipliers of a row

using dwords16 = std::array<uint32_t, 16>;

// Where 16 fields of one width lie: byte offset of the word, and by how much to shift it.
constexpr dwords16 field_word(int bits) {
    dwords16 at{};
    for (int i = 0; i < 16; ++i) {
        at[i] = (uint32_t) (i*bits/8*XQ_LANES*4);
    }
    return at;
}
constexpr dwords16 field_shift(int bits) {
    dwords16 at{};
    for (int i = 0; i < 16; ++i) {
        at[i] = (uint32_t) (i*bits%8);
    }
    return at;
}

struct width {
    alignas(64) bytes64 order;
    alignas(64) dwords16 word, shift;
    int log; // of the bits, which are never divided by: that takes as long as all else
};
constexpr width width_of(int log) { return {word_order(1 << log), field_word(1 << log), field_shift(1 << log), log}; }
alignas(64) constexpr width WIDTHS[4] = {width_of(0), width_of(1), width_of(2), width_of(3)};
inline const width & of_bits(int bits) { return WIDTHS[bits == 1 ? 0 : bits == 2 ? 1 : bits == 4 ? 2 : 3]; }

struct multipliers {
    alignas(64) int8_t hi[ROOM];
    alignas(64) int8_t lo[ROOM];
    float step[2]; // by segment
};

// The fields of a strip, and for every four of their bytes the rows whose multipliers they meet.
struct fields {
    int n = 0, segments = 0;
    int end[2];               // fields of segment i end here; a segment has a step of its own
    float weight[2];          // 4 for the high bits of 3-bit codes
    alignas(64) uint32_t word[MOST_FIELDS], shift[MOST_FIELDS], mask[MOST_FIELDS];
    alignas(64) uint8_t  row[ROOM];

    // `rows` rows of one width (up to 64*TABLES), in words from `first` on; which[] names them in
    // ascending order. Returns the words.
    template <int TABLES> int add(int bits, int rows, int first, const __m512i * which) {
        const width & w = of_bits(bits);
        const int words = ((rows << w.log) + 31) >> 5;
        const __m512i fields_mask = _mm512_set1_epi32((int) (((1u << (1 << w.log)) - 1)*0x01010101u)), shifts = load(w.shift.data()), order = load(w.order.data());
        __m512i at = _mm512_add_epi32(load(w.word.data()), _mm512_set1_epi32(first*XQ_LANES*4));
        const __m512i step = _mm512_set1_epi32((2 << w.log)*XQ_LANES*4); // words of 16 fields
        xq_each<TABLES>([&](auto t) XQ_INLINE {                            // which meet 64 rows
            _mm512_storeu_si512(row   + 4*n + 64*t, _mm512_permutexvar_epi8(order, which[t]));
            _mm512_storeu_si512(word  + n + 16*t, at);
            _mm512_storeu_si512(shift + n + 16*t, shifts);
            _mm512_storeu_si512(mask  + n + 16*t, fields_mask);
            at = _mm512_add_epi32(at, step);
        });
        n += words << (3 - w.log);
        return words;
    }

    void close(float weight_of = 1.0f) {
        weight[segments] = weight_of;
        end[segments++] = n;
    }

    // Four rows of 16 lanes.
    __m512i codes(int i, const uint32_t * strip) const {
        const __m512i w = load((const char *) strip + word[i]);
        return _mm512_and_si512(_mm512_srlv_epi32(w, _mm512_set1_epi32((int) shift[i])), _mm512_set1_epi32((int) mask[i]));
    }
};

// out[r][32] = offset[r] + codes . multipliers of row r
template <int NR> void product(const fields & f, const uint32_t * codes, const multipliers * mu, const float * offset, float * out, int ldo) {
    __m512 total[NR][2];
    for (int r = 0; r < NR; ++r) {
        total[r][0] = total[r][1] = _mm512_set1_ps(offset[r]);
    }
    int i = 0;
    for (int s = 0; s < f.segments; ++s) {
        __m512i hi[NR][2], lo[NR][2];
        for (int r = 0; r < NR; ++r) {
            hi[r][0] = hi[r][1] = lo[r][0] = lo[r][1] = _mm512_setzero_si512();
        }
        for (; i < f.end[s]; ++i) {
            const __m512i c0 = f.codes(i, codes), c1 = f.codes(i, codes + 16);
            for (int r = 0; r < NR; ++r) {
                const __m512i h = four_bytes(mu[r].hi + 4*i), l = four_bytes(mu[r].lo + 4*i);
                dot(hi[r][0], c0, h);
                dot(hi[r][1], c1, h);
                dot(lo[r][0], c0, l);
                dot(lo[r][1], c1, l);
            }
        }
        for (int r = 0; r < NR; ++r) {
            const __m512 step = _mm512_set1_ps(mu[r].step[s]*f.weight[s]);
            for (int half = 0; half < 2; ++half) {
                const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(hi[r][half], 8), lo[r][half]);
                total[r][half] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), step, total[r][half]);
            }
        }
    }
    for (int r = 0; r < NR; ++r) {
        for (int half = 0; half < 2; ++half) {
            _mm512_storeu_ps(out + (size_t) r*ldo + 16*half, total[r][half]);
        }
    }
}

} // namespace xq_avx512
