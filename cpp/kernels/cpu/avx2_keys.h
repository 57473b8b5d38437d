// Scores of ranked keys, included by avx2.cpp and, with XQ_AVX_VNNI, by avx_vnni.cpp. by_mac.cpp does the same for every side: a query's
// multipliers become bytes width by width, after they have been put in the order of the codes. Here all widths share a step, so that
// they are bytes first, and pshufb orders them. (With VNNI, 2 bits: 0.082 ns an element, 0.100 by by_mac.cpp.) Rows of 8 bits have
// far smaller scales than the others, and a step of their own.
#pragma once

#include "format/xq_ranked.h"
#include "kernels/cpu/avx2_mac.h"

#include <algorithm>

namespace {

constexpr int KEY_ROWS   = 3; // queries together: as many as mac_plane takes
constexpr int KEY_WIDTHS = 4; // of 1, 2, 4 and 8 bits

bool has_key_strips(const xq_side & side) { return side.meta == XQ_META_RANKED && side.rows % 32 == 0; }

// A strip's scales, and which row every multiplier belongs to.
class key_strip {
public:
    key_strip(const xq_side & side, const uint8_t * meta) : rows(side.rows) {
        xq_kernels_avx2.read_meta(side, meta, scale, zero);
        xq_read_segments(side, meta, segments);
        apart = segments.n > 0 && segments.list[0].bits == 8;
        for (int i = 0; apart && i < rows/8; ++i) {
            const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            const int both = meta[XQ_RANKED_HEAD + i] & meta[XQ_RANKED_HEAD + rows/8 + i]; // class 3
            eight[i] = _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(both), bit), bit));
        }
        for (int k = 0; k < segments.n; ++k) {
            const auto & seg = segments.list[k];
            for (int i = seg.at; i < seg.at + seg.rows; i += 32) {
                alignas(32) int8_t order[32];
                const auto half = [&](int at) { return _mm_loadu_si128((const __m128i *) (segments.order + i + at)); };
                const bool by16 = seg.bits == 2 || seg.bits == 4;
                _mm_store_si128((__m128i *) order,        by16 ? order16(half(0),  seg.bits) : half(0));
                _mm_store_si128((__m128i *) (order + 16), by16 ? order16(half(16), seg.bits) : half(16));
                if (seg.bits == 1) {
                    order32_1bit(order);
                }
                const __m256i row = _mm256_load_si256((const __m256i *) order);
                for (int t = 0; t < rows/16; ++t) { // bit 7, for which pshufb gives 0, is set unless the row is one of table t
                    pick[i/32][t] = _mm256_adds_epu8(_mm256_xor_si256(row, _mm256_set1_epi8((char) (16*t))), _mm256_set1_epi8(0x70));
                }
            }
        }
    }

    // Multipliers of a query, by width; *offset = q . zero points. Whether its largest share of a logit is too large.
    bool prepare(const float * q, multipliers (*mu)[KEY_ROWS], int j, float * offset) const {
        alignas(32) float m[XQ_MAX_ROWS];
        float top, top8 = 0.0f;
        *offset = xq_kernels_avx2.scale_row(q, scale, zero, rows, m, &top);
        if (apart) {
            part(m, top, top8);
        }
        const __m256 inv = inverse(top), inv8 = inverse(top8);
        const auto steps = [&](int i) { return _mm256_mul_ps(_mm256_load_ps(m + i), apart ? _mm256_blendv_ps(inv, inv8, eight[i/8]) : inv); };
        alignas(32) int8_t hi[XQ_MAX_ROWS], lo[XQ_MAX_ROWS];
        for (int i = 0; i < rows; i += 16) {
            __m128i h, l;
            to_bytes(steps(i), steps(i + 8), h, l);
            _mm_store_si128((__m128i *) (hi + i), h);
            _mm_store_si128((__m128i *) (lo + i), l);
        }
        for (int k = 0; k < segments.n; ++k) {
            const auto & seg = segments.list[k];
            mu[k][j].step = (seg.bits == 8 ? top8 : top)/STEPS;
            for (int i = 0; i < seg.rows; i += 32) {
                _mm256_store_si256((__m256i *) (mu[k][j].hi + i), ordered(hi, (seg.at + i)/32));
                _mm256_store_si256((__m256i *) (mu[k][j].lo + i), ordered(lo, (seg.at + i)/32));
            }
        }
        return top*15.0f > XQ_MAX_SHARE || top8*255.0f > XQ_MAX_SHARE;
    }

    void add_products(int n, const uint32_t * codes, const multipliers (*mu)[KEY_ROWS], float * s, int lds) const {
        for (int k = 0; k < segments.n; ++k) {
            const auto & seg = segments.list[k];
            const int words = xq_class_words(seg.rows, seg.bits);
            const uint32_t * from = codes + (size_t) seg.word*XQ_LANES;
            switch (seg.bits) {
                case 1:  mac_rows<1>(n, words, from, mu[k], 1.0f, s, lds); break;
                case 2:  mac_rows<2>(n, words, from, mu[k], 1.0f, s, lds); break;
                case 4:  mac_rows<4>(n, words, from, mu[k], 1.0f, s, lds); break;
                default: mac_eight(n, words, from, mu[k], s, lds); break;
            }
        }
    }

private:
    // Largest multipliers of rows of 8 bits and of the others.
    void part(const float * m, float & top, float & top8) const {
        const __m256 sign = _mm256_set1_ps(-0.0f);
        __m256 most = _mm256_setzero_ps(), most8 = most;
        for (int i = 0; i < rows; i += 8) {
            const __m256 size = _mm256_andnot_ps(sign, _mm256_load_ps(m + i));
            most  = _mm256_max_ps(most,  _mm256_andnot_ps(eight[i/8], size));
            most8 = _mm256_max_ps(most8, _mm256_and_ps(eight[i/8], size));
        }
        top = hmax(most); top8 = hmax(most8);
    }

    static __m256 inverse(float top) { return _mm256_set1_ps(top > 0.0f ? STEPS/top : 0.0f); }

    __m256i ordered(const int8_t * by_row, int at) const {
        __m256i out = _mm256_setzero_si256();
        for (int t = 0; t < rows/16; ++t) {
            const __m256i table = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *) (by_row + 16*t)));
            out = _mm256_or_si256(out, _mm256_shuffle_epi8(table, pick[at][t]));
        }
        return out;
    }

    const int rows;
    bool apart; // whether there are rows of 8 bits
    xq_segments segments;
    __m256 eight[XQ_MAX_ROWS/8]; // which
    alignas(32) float scale[XQ_MAX_ROWS], zero[XQ_MAX_ROWS];
    __m256i pick[XQ_MAX_ROWS/32 + KEY_WIDTHS][XQ_MAX_ROWS/16];
};

// As xq_cpu_kernels::key_scores.
void scores_of_strips(const xq_side & side, const xq_sealed_tiles & tiles, const float * q, int ldq, int n, float * s, int lds, uint64_t * coarse) {
    for (int t = 0; t < tiles.n; ++t) {
        const key_strip strip(side, tiles.meta[t]);
        coarse[t] = 0;
        for (int j0 = 0; j0 < n; j0 += KEY_ROWS) {
            const int nj = std::min(KEY_ROWS, n - j0);
            multipliers mu[KEY_WIDTHS][KEY_ROWS];
            float * out = s + (size_t) j0*lds + tiles.at[t];
            for (int j = 0; j < nj; ++j) {
                float offset;
                coarse[t] |= (uint64_t) strip.prepare(q + (size_t) (j0 + j)*ldq, mu, j, &offset) << (j0 + j);
                std::fill(out + (size_t) j*lds, out + (size_t) j*lds + XQ_LANES, offset);
            }
            strip.add_products(nj, tiles.codes[t], mu, out, lds);
        }
    }
}

} // namespace
