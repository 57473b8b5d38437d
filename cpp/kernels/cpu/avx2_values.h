// Values in AVX2, included by avx2_values.cpp and, with XQ_AVX_VNNI, by avx_vnni.cpp, with the same bits. The tiles of a chunk
// share a step for every row of weights, so that sums stay integers from the first tile to the last: 256 weights * 15 * 32512 is far below 2^31.
#pragma once

#include "kernels/cpu/avx2_bytes.h"

namespace avx2_values {
namespace {

using namespace xq_avx2;

constexpr int BATCH = 3; // rows of weights that meet a word together: as many as registers hold sums for
constexpr int CHUNK = XQ_CHUNK_TILES*XQ_TILE;

struct multipliers {
    alignas(32) int8_t hi[CHUNK];
    alignas(32) int8_t lo[CHUNK];
};

#if XQ_AVX_VNNI

// o[r][32] += offset[r] + step[r] * (codes of one plane of every tile, `first` words into it, times multipliers of row r)
template <int B, int NR>
void product(const xq_sealed_tiles & tiles, size_t first, const multipliers * mu, const float * step, const float * offset, float * o, int ldo) {
    constexpr int FIELDS = 8/B;
    const __m256i mask = _mm256_set1_epi8((char) ((1 << B) - 1));
    for (int l = 0; l < XQ_LANES; l += 16) { // as in avx2_mac.h
        __m256i hi[NR][2], lo[NR][2];
        xq_each<NR>([&](auto r) XQ_INLINE { hi[r][0] = hi[r][1] = lo[r][0] = lo[r][1] = _mm256_setzero_si256(); });
        for (int t = 0; t < tiles.n; ++t) {
            const uint32_t * word = tiles.codes[t] + first + l;
            for (int at = t*XQ_TILE; at < (t + 1)*XQ_TILE; at += 4*FIELDS, word += XQ_LANES) { // the rows of a word
                const __m256i v0 = load8(word), v1 = load8(word + 8);
                xq_each<FIELDS>([&](auto k) XQ_INLINE {
                    const __m256i c0 = _mm256_and_si256(_mm256_srli_epi32(v0, k*B), mask), c1 = _mm256_and_si256(_mm256_srli_epi32(v1, k*B), mask);
                    xq_each<NR>([&](auto r) XQ_INLINE {
                        dot_two(hi[r], c0, c1, broadcast4(mu[r].hi + at + 4*k));
                        dot_two(lo[r], c0, c1, broadcast4(mu[r].lo + at + 4*k));
                    });
                });
            }
        }
        xq_each<NR>([&](auto r) XQ_INLINE {
            xq_each<2>([&](auto half) XQ_INLINE {
                float * out = o + (size_t) r*ldo + l + 8*half;
                const __m256 start = _mm256_add_ps(_mm256_loadu_ps(out), _mm256_set1_ps(offset[r]));
                _mm256_storeu_ps(out, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sixteen_bits(hi[r][half], lo[r][half])), _mm256_set1_ps(step[r]), start));
            });
        });
    }
}

#else

// o[r][32] += offset[r] + step[r] * (codes of one plane of every tile, `first` words into it, times multipliers of row r).
// A 16-bit sum takes 2*code*127 a field and eight fields a tile: it is widened after WIDEN tiles, before it can overflow.
template <int B, int NR>
void product(const xq_sealed_tiles & tiles, size_t first, const multipliers * mu, const float * step, const float * offset, float * o, int ldo) {
    constexpr int FIELDS = 8/B, WIDEN = B == 4 ? 1 : B == 2 ? 4 : XQ_CHUNK_TILES;
    const __m256i mask = _mm256_set1_epi8((char) ((1 << B) - 1)), ones = _mm256_set1_epi16(1);
    for (int l = 0; l < XQ_LANES; l += 8) {
        __m256i wide[NR];
        for (int r = 0; r < NR; ++r) {
            wide[r] = _mm256_setzero_si256();
        }
        for (int t0 = 0; t0 < tiles.n; t0 += WIDEN) {
            const int t1 = t0 + WIDEN < tiles.n ? t0 + WIDEN : tiles.n;
            __m256i hi[NR], lo[NR];
            for (int r = 0; r < NR; ++r) {
                hi[r] = lo[r] = _mm256_setzero_si256();
            }
            for (int t = t0; t < t1; ++t) {
                for (int w = 0; w < B; ++w) { // 32 rows
                    const __m256i v = _mm256_loadu_si256((const __m256i *) (tiles.codes[t] + first + (size_t) w*XQ_LANES + l));
                    for (int k = 0; k < FIELDS; ++k) {
                        const __m256i c = _mm256_and_si256(_mm256_srli_epi32(v, k*B), mask);
                        const int at = t*XQ_TILE + (w*FIELDS + k)*4;
                        for (int r = 0; r < NR; ++r) {
                            hi[r] = _mm256_add_epi16(hi[r], _mm256_maddubs_epi16(c, broadcast4(mu[r].hi + at)));
                            lo[r] = _mm256_add_epi16(lo[r], _mm256_maddubs_epi16(c, broadcast4(mu[r].lo + at)));
                        }
                    }
                }
            }
            for (int r = 0; r < NR; ++r) {
                const __m256i high = _mm256_slli_epi32(_mm256_madd_epi16(hi[r], ones), 8);
                wide[r] = _mm256_add_epi32(wide[r], _mm256_add_epi32(high, _mm256_madd_epi16(lo[r], ones)));
            }
        }
        for (int r = 0; r < NR; ++r) {
            float * out = o + (size_t) r*ldo + l;
            const __m256 start = _mm256_add_ps(_mm256_loadu_ps(out), _mm256_set1_ps(offset[r]));
            _mm256_storeu_ps(out, _mm256_fmadd_ps(_mm256_cvtepi32_ps(wide[r]), _mm256_set1_ps(step[r]), start));
        }
    }
}

#endif

template <int B>
void product_of(int n, const xq_sealed_tiles & tiles, size_t first, const multipliers * mu, const float * step, const float * offset, float * o, int ldo) {
    switch (n) {
        case 1:  product<B, 1>(tiles, first, mu, step, offset, o, ldo); break;
        case 2:  product<B, 2>(tiles, first, mu, step, offset, o, ldo); break;
        default: product<B, 3>(tiles, first, mu, step, offset, o, ldo); break;
    }
}

// One group of strips, up to BATCH rows of weights.
class batch {
public:
    batch(const xq_sealed_tiles & tiles, const float (*scale)[XQ_TILE], const float (*zero)[XQ_TILE], const float * p, int ldp, int n) : tiles(tiles), n(n) {
        const __m256 sign = _mm256_set1_ps(-0.0f);
        for (int j = 0; j < n; ++j) {
            __m256 sum = _mm256_setzero_ps(), top = sum;
            for (int t = 0; t < tiles.n; ++t) {
                const float * pj = p + (size_t) j*ldp + tiles.at[t];
                for (int i = 0; i < XQ_TILE; i += 8) {
                    const __m256 v = _mm256_loadu_ps(pj + i), m = _mm256_mul_ps(v, _mm256_load_ps(scale[t] + i));
                    sum = _mm256_fmadd_ps(v, _mm256_load_ps(zero[t] + i), sum);
                    top = _mm256_max_ps(top, _mm256_andnot_ps(sign, m));
                    _mm256_store_ps(scaled[j] + t*XQ_TILE + i, m);
                }
            }
            const float most = hmax(top);
            offset[j] = hsum(sum);
            step[j] = most/STEPS;
            inv[j]  = most > 0.0f ? STEPS/most : 0.0f;
        }
    }

    template <int B> void add_plane(int g, int end, int words, int word, float weight, bool with_offset, float * o, int ldo) {
        order<B>();
        float steps[BATCH], start[BATCH];
        for (int j = 0; j < n; ++j) {
            steps[j] = weight*step[j];
            start[j] = with_offset ? offset[j] : 0.0f;
        }
        for (int h = g; h < end; ++h) {
            product_of<B>(n, tiles, (size_t) h*words + (size_t) word*XQ_LANES, mu, steps, start, o + h*XQ_LANES, ldo);
        }
    }

private:
    // Multipliers to bytes, in the order in which a plane's fields meet them.
    template <int B> void order() {
        for (int j = 0; j < n; ++j) {
            const __m256 f = _mm256_set1_ps(inv[j]);
            for (int i = 0; i < tiles.n*XQ_TILE; i += 16) {
                __m128i hi, lo;
                to_bytes(_mm256_mul_ps(_mm256_load_ps(scaled[j] + i), f), _mm256_mul_ps(_mm256_load_ps(scaled[j] + i + 8), f), hi, lo);
                _mm_store_si128((__m128i *) (mu[j].hi + i), B == 1 ? hi : order16(hi, B));
                _mm_store_si128((__m128i *) (mu[j].lo + i), B == 1 ? lo : order16(lo, B));
            }
            for (int i = 0; B == 1 && i < tiles.n*XQ_TILE; i += 32) {
                order32_1bit(mu[j].hi + i);
                order32_1bit(mu[j].lo + i);
            }
        }
    }

    const xq_sealed_tiles & tiles;
    const int n;
    alignas(32) float scaled[BATCH][CHUNK];
    multipliers mu[BATCH];
    float offset[BATCH], inv[BATCH], step[BATCH];
};

void add_values(const xq_side & side, const xq_sealed_tiles & tiles, const float * p, int ldp, int n, float * o, int ldo) {
    const int words = xq_side_words(side);
    alignas(32) float scale[XQ_CHUNK_TILES][XQ_TILE], zero[XQ_CHUNK_TILES][XQ_TILE];
    for (int g = 0; g < side.strips;) {
        int end = g + 1; // strips that share these scales
        while (end < side.strips && xq_meta_at(side, end) == xq_meta_at(side, g)) {
            ++end;
        }
        for (int t = 0; t < tiles.n; ++t) {
            xq_kernels_avx2.read_meta(side, tiles.meta[t] + xq_meta_at(side, g), scale[t], zero[t]);
        }
        for (int j = 0; j < n; j += BATCH) {
            batch b(tiles, scale, zero, p + (size_t) j*ldp, ldp, n - j < BATCH ? n - j : BATCH);
            float * out = o + (size_t) j*ldo;
            switch (side.bits) {
                case 1:  b.add_plane<1>(g, end, words, 0, 1.0f, true, out, ldo); break;
                case 2:  b.add_plane<2>(g, end, words, 0, 1.0f, true, out, ldo); break;
                case 3:
                    b.add_plane<2>(g, end, words, 0, 1.0f, true, out, ldo);
                    b.add_plane<1>(g, end, words, xq_plane_words(XQ_TILE, 2), 4.0f, false, out, ldo);
                    break;
                default: b.add_plane<4>(g, end, words, 0, 1.0f, true, out, ldo); break;
            }
        }
        g = end;
    }
}

} // namespace
} // namespace avx2_values
