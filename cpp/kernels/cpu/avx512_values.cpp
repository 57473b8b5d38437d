// Values in AVX-512. The tiles of a chunk share a step for every row of weights, so that sums stay integers from the
// first tile to the last: 256 weights * 15 * 32512 is far below 2^31.
// (A step for every tile took 1.3 times as long on SmolLM2, whose KV heads have three query heads.)
#include "kernels/cpu/avx512.h"
#include "kernels/cpu/avx512_bytes.h"

#include <algorithm>

using namespace xq_avx512;

namespace {

constexpr int CHUNK = XQ_CHUNK_TILES*XQ_TILE;

// Scale and zero point of 32 tokens.
struct value_meta {
    __m512 scale[2], zero[2];

    void read(const xq_side & side, const uint8_t * meta) {
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

// A row's weights times the scales of a group of strips, in the order in which a plane's fields meet them.
struct multipliers {
    alignas(64) int8_t hi[CHUNK];
    alignas(64) int8_t lo[CHUNK];
};

// o[r][32] += offset[r] + step[r] * (codes of one plane of every tile, `first` words into it, times multipliers of row r)
template <int B, int NR>
void product(const xq_sealed_tiles & tiles, size_t first, const multipliers * mu, const float * step, const float * offset, float * o, int ldo) {
    constexpr int FIELDS = 8/B;
    const __m512i mask = _mm512_set1_epi8((char) ((1 << B) - 1));
    __m512i hi[NR][2], lo[NR][2];
    xq_each<NR>([&](auto r) XQ_INLINE { hi[r][0] = hi[r][1] = lo[r][0] = lo[r][1] = _mm512_setzero_si512(); });
    for (int t = 0; t < tiles.n; ++t) {
        const uint32_t * word = tiles.codes[t] + first;
        for (int at = t*XQ_TILE; at < (t + 1)*XQ_TILE; at += 4*FIELDS, word += XQ_LANES) { // the rows of a word
            const __m512i w0 = load(word), w1 = load(word + 16);
            xq_each<FIELDS>([&](auto k) XQ_INLINE {
                const __m512i c0 = _mm512_and_si512(_mm512_srli_epi32(w0, k*B), mask), c1 = _mm512_and_si512(_mm512_srli_epi32(w1, k*B), mask);
                xq_each<NR>([&](auto r) XQ_INLINE {
                    const __m512i h = four_bytes(mu[r].hi + at + 4*k), l = four_bytes(mu[r].lo + at + 4*k);
                    dot(hi[r][0], c0, h);
                    dot(hi[r][1], c1, h);
                    dot(lo[r][0], c0, l);
                    dot(lo[r][1], c1, l);
                });
            });
        }
    }
    xq_each<NR>([&](auto r) XQ_INLINE {
        xq_each<2>([&](auto half) XQ_INLINE {
            float * out = o + (size_t) r*ldo + 16*half;
            const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(hi[r][half], 8), lo[r][half]);
            const __m512 start = _mm512_add_ps(_mm512_loadu_ps(out), _mm512_set1_ps(offset[r]));
            _mm512_storeu_ps(out, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(step[r]), start));
        });
    });
}

template <int B>
void product_of(int n, const xq_sealed_tiles & tiles, size_t first, const multipliers * mu, const float * step, const float * offset, float * o, int ldo) {
    switch (n) {
        case 1:  product<B, 1>(tiles, first, mu, step, offset, o, ldo); break;
        case 2:  product<B, 2>(tiles, first, mu, step, offset, o, ldo); break;
        case 3:  product<B, 3>(tiles, first, mu, step, offset, o, ldo); break;
        default: product<B, 4>(tiles, first, mu, step, offset, o, ldo); break;
    }
}

// One group of strips, up to BATCH rows of weights.
class batch {
public:
    batch(const xq_sealed_tiles & tiles, const value_meta * meta, const float * p, int ldp, int n) : tiles(tiles), n(n) {
        __m512 sum[BATCH], top[BATCH];
        for (int j = 0; j < BATCH; ++j) {
            sum[j] = top[j] = _mm512_setzero_ps();
        }
        for (int j = 0; j < n; ++j) {
            for (int t = 0; t < tiles.n; ++t) {
                const float * pj = p + (size_t) j*ldp + tiles.at[t];
                for (int i = 0; i < 2; ++i) {
                    const __m512 v = _mm512_loadu_ps(pj + 16*i), m = _mm512_mul_ps(v, meta[t].scale[i]);
                    sum[j] = _mm512_fmadd_ps(v, meta[t].zero[i], sum[j]);
                    top[j] = _mm512_max_ps(top[j], _mm512_abs_ps(m));
                    scaled[j][2*t + i] = m;
                }
            }
            scaled[j][2*tiles.n] = scaled[j][2*tiles.n + 1] = _mm512_setzero_ps();
        }
        const __m128 most = maxima(top);
        _mm_store_ps(offset, sums(sum));
        _mm_store_ps(inv, inverses(most));
        _mm_store_ps(step, _mm_mul_ps(most, _mm_set1_ps(1.0f/STEPS)));
    }

    template <int B> void order() {
        alignas(64) static constexpr bytes64 fields = [] {
            bytes64 at = word_order(B);
            for (uint8_t & i : at) {
                i = LOW_BYTES[i];
            }
            return at;
        }();
        const __m512i at = load(fields.data());
        for (int j = 0; j < n; ++j) {
            const __m512 f = _mm512_set1_ps(inv[j]);
            for (int i = 0; i < 2*tiles.n; i += 4) { // two tiles, 64 multipliers
                __m512 steps[4];
                for (int k = 0; k < 4; ++k) {
                    steps[k] = _mm512_mul_ps(scaled[j][i + k], f);
                }
                const halves h = bytes_at(to_shorts(steps), at);
                _mm512_store_si512(mu[j].hi + 16*i, h.hi);
                _mm512_store_si512(mu[j].lo + 16*i, h.lo);
            }
        }
    }

    template <int B> void add(size_t first, float weight, bool with_offset, float * o, int ldo) const {
        float steps[BATCH], start[BATCH];
        for (int j = 0; j < BATCH; ++j) {
            steps[j] = weight*step[j];
            start[j] = with_offset ? offset[j] : 0.0f;
        }
        product_of<B>(n, tiles, first, mu, steps, start, o, ldo);
    }

private:
    const xq_sealed_tiles & tiles;
    const int n;
    __m512 scaled[BATCH][2*XQ_CHUNK_TILES + 2];
    multipliers mu[BATCH];
    alignas(16) float offset[BATCH], inv[BATCH], step[BATCH];
};

// One plane of the strips [g, end), whose codes start `word` words into each.
template <int B> void add_plane(batch & b, int g, int end, int words, int word, float weight, bool with_offset, float * o, int ldo) {
    b.order<B>();
    for (int h = g; h < end; ++h) {
        b.add<B>((size_t) h*words + (size_t) word*XQ_LANES, weight, with_offset, o + h*XQ_LANES, ldo);
    }
}

} // namespace

void xq_avx512_add_values(const xq_side & side, const xq_sealed_tiles & tiles, const float * p, int ldp, int n, float * o, int ldo) {
    const int words = xq_side_words(side);
    for (int g = 0; g < side.strips;) {
        int end = g + 1; // strips that share these scales
        while (end < side.strips && xq_meta_at(side, end) == xq_meta_at(side, g)) {
            ++end;
        }
        value_meta meta[XQ_CHUNK_TILES];
        for (int t = 0; t < tiles.n; ++t) {
            meta[t].read(side, tiles.meta[t] + xq_meta_at(side, g));
        }
        for (int j = 0; j < n; j += BATCH) {
            batch b(tiles, meta, p + (size_t) j*ldp, ldp, std::min(BATCH, n - j));
            float * out = o + (size_t) j*ldo;
            switch (side.bits) {
                case 1:  add_plane<1>(b, g, end, words, 0, 1.0f, true, out, ldo); break;
                case 2:  add_plane<2>(b, g, end, words, 0, 1.0f, true, out, ldo); break;
                case 3:
                    add_plane<2>(b, g, end, words, 0, 1.0f, true, out, ldo);
                    add_plane<1>(b, g, end, words, xq_plane_words(XQ_TILE, 2), 4.0f, false, out, ldo);
                    break;
                default: add_plane<4>(b, g, end, words, 0, 1.0f, true, out, ldo); break;
            }
        }
        g = end;
    }
}
