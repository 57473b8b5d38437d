// The product of multipliers and packed codes on 64-bit Arm, compiled twice: by neon.cpp for every processor and by
// neon_dot.cpp for those with dot products (sdot).
//
// As in avx2.cpp: multipliers of 15 bits, m = step * (256*hi + lo) with hi and lo in int8, against codes that stay
// packed. (word >> k) & mask leaves four rows of a lane in its bytes; codes up to 15 are no less signed than
// unsigned. Sums are of integers, so a row's result depends on no other row.
//
//   sdot   adds four rows' products to a lane's 32-bit sum: 16 codes an instruction, multipliers picked by element
//   smlal  adds 8 products to 16-bit sums, one for each byte of a lane, which are folded after STEPS words at most
#pragma once

#include "kernels/cpu/kernels.h"

#include <arm_neon.h>

#include <cstring>

namespace {

// Multipliers of a strip's rows as int8 pairs, in the byte order in which codes of one word meet them.
struct multipliers {
    alignas(16) int8_t hi[XQ_MAX_ROWS];
    alignas(16) int8_t lo[XQ_MAX_ROWS];
    float   step; // 0: all multipliers are zero
    int32_t sum;  // of 256*hi + lo
};

float largest_size(const float * m, int padded) {
    float32x4_t top[2] = {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
    for (int i = 0; i < padded; i += 8) {
        top[0] = vmaxq_f32(top[0], vabsq_f32(vld1q_f32(m + i)));
        top[1] = vmaxq_f32(top[1], vabsq_f32(vld1q_f32(m + i + 4)));
    }
    return vmaxvq_f32(vmaxq_f32(top[0], top[1]));
}

// 32 rows into word order: field k, byte b of a word is row b*(8/bits) + k of its 32/bits.
template <int B> void order32(int8_t * rows) {
    alignas(16) static const uint8_t at[3][32] = {
        {0,8,16,24, 1,9,17,25, 2,10,18,26, 3,11,19,27, 4,12,20,28, 5,13,21,29, 6,14,22,30, 7,15,23,31},
        {0,4,8,12, 1,5,9,13, 2,6,10,14, 3,7,11,15, 16,20,24,28, 17,21,25,29, 18,22,26,30, 19,23,27,31},
        {0,2,4,6, 1,3,5,7, 8,10,12,14, 9,11,13,15, 16,18,20,22, 17,19,21,23, 24,26,28,30, 25,27,29,31},
    };
    const uint8_t * from = at[B == 1 ? 0 : B == 2 ? 1 : 2];
    const int8x16x2_t in = {{vld1q_s8(rows), vld1q_s8(rows + 16)}};
    vst1q_s8(rows,      vqtbl2q_s8(in, vld1q_u8(from)));
    vst1q_s8(rows + 16, vqtbl2q_s8(in, vld1q_u8(from + 16)));
}

// m holds zeros from `rows` up to the next multiple of 32.
template <int B> void prepare(const float * m, int rows, multipliers & out) {
    const int padded = (rows + 31) & ~31;
    const float top = largest_size(m, padded);
    const bool any = top > 0.0f;
    out.step = any ? top / 32512.0f : 0.0f;
    const float32x4_t inv = vdupq_n_f32(any ? 32512.0f / top : 0.0f);
    int32x4_t sum = vdupq_n_s32(0);
    for (int i = 0; i < padded; i += 8) {
        const int32x4_t a = vcvtnq_s32_f32(vmulq_f32(vld1q_f32(m + i), inv)), b = vcvtnq_s32_f32(vmulq_f32(vld1q_f32(m + i + 4), inv));
        const int16x8_t q = vcombine_s16(vqmovn_s32(a), vqmovn_s32(b));
        vst1_s8(out.hi + i, vrshrn_n_s16(q, 8)); // (q + 128) >> 8
        vst1_s8(out.lo + i, vmovn_s16(q));       // q - 256*hi
        if (B == 8) {
            sum = vpadalq_s16(sum, q);
        }
        if (B != 8 && i % 32 == 24) {
            order32<B>(out.hi + i - 24);
            order32<B>(out.lo + i - 24);
        }
    }
    out.sum = vaddvq_s32(sum);
}

// Rows' codes of B bits that lie at field K of every byte.
template <int B, int K> int8x16_t field(uint8x16_t v) {
    if constexpr (K*B > 0) {
        v = vshrq_n_u8(v, K*B);
    }
    if constexpr (K*B + B < 8) {
        v = vandq_u8(v, vdupq_n_u8((1 << B) - 1));
    }
    return vreinterpretq_s8_u8(v);
}

// 8-bit codes as signed bytes, 128 less.
int8x16_t less_128(uint8x16_t v) { return vreinterpretq_s8_u8(veorq_u8(v, vdupq_n_u8(128))); }

uint8x16_t load_words(const uint32_t * p) { return vreinterpretq_u8_u32(vld1q_u32(p)); }

int8x16_t four_bytes(const int8_t * p) { int32_t v; std::memcpy(&v, p, 4); return vreinterpretq_s8_s32(vdupq_n_s32(v)); }

void add_sum(float * out, int32x4_t sum, float factor) {
    vst1q_f32(out, vaddq_f32(vld1q_f32(out), vmulq_f32(vcvtq_f32_s32(sum), vdupq_n_f32(factor))));
}

#if XQ_NEON_DOT

constexpr int MOST_SETS = 4; // of multipliers at once
constexpr int vectors_of(int sets) { return sets == 1 ? 8 : sets == 2 ? 4 : 2; } // of four lanes: accumulators stay in registers

// Fields K, K+1, ... of one word, F of them left.
template <int B, int K, int F, int NH, int NV>
inline __attribute__((always_inline)) void add_fields(const uint8x16_t * v, const multipliers * mu, int at, int32x4_t (&hi)[NH][NV], int32x4_t (&lo)[NH][NV]) {
    if constexpr (F == 1) { // 8 bits
        for (int h = 0; h < NH; ++h) {
            const int8x16_t mh = four_bytes(mu[h].hi + at), ml = four_bytes(mu[h].lo + at);
            for (int j = 0; j < NV; ++j) {
                hi[h][j] = vdotq_s32(hi[h][j], less_128(v[j]), mh);
                lo[h][j] = vdotq_s32(lo[h][j], less_128(v[j]), ml);
            }
        }
    } else if constexpr (F == 2) {
        int8x8_t mh[NH], ml[NH];
        for (int h = 0; h < NH; ++h) {
            mh[h] = vld1_s8(mu[h].hi + at);
            ml[h] = vld1_s8(mu[h].lo + at);
        }
        for (int j = 0; j < NV; ++j) {
            const int8x16_t a = field<B, K>(v[j]), b = field<B, K + 1>(v[j]);
            for (int h = 0; h < NH; ++h) {
                hi[h][j] = vdotq_lane_s32(vdotq_lane_s32(hi[h][j], a, mh[h], 0), b, mh[h], 1);
                lo[h][j] = vdotq_lane_s32(vdotq_lane_s32(lo[h][j], a, ml[h], 0), b, ml[h], 1);
            }
        }
    } else {
        int8x16_t mh[NH], ml[NH];
        for (int h = 0; h < NH; ++h) {
            mh[h] = vld1q_s8(mu[h].hi + at);
            ml[h] = vld1q_s8(mu[h].lo + at);
        }
        for (int j = 0; j < NV; ++j) {
            const int8x16_t a = field<B, K>(v[j]), b = field<B, K + 1>(v[j]), c = field<B, K + 2>(v[j]), d = field<B, K + 3>(v[j]);
            for (int h = 0; h < NH; ++h) {
                hi[h][j] = vdotq_laneq_s32(vdotq_laneq_s32(hi[h][j], a, mh[h], 0), b, mh[h], 1);
                lo[h][j] = vdotq_laneq_s32(vdotq_laneq_s32(lo[h][j], a, ml[h], 0), b, ml[h], 1);
                hi[h][j] = vdotq_laneq_s32(vdotq_laneq_s32(hi[h][j], c, mh[h], 2), d, mh[h], 3);
                lo[h][j] = vdotq_laneq_s32(vdotq_laneq_s32(lo[h][j], c, ml[h], 2), d, ml[h], 3);
            }
        }
        if constexpr (F > 4) {
            add_fields<B, K + 4, F - 4>(v, mu, at + 16, hi, lo);
        }
    }
}

// One plane against NH sets of multipliers.
template <int B, int NH> void mac_plane(int words, const uint32_t * codes, const multipliers * mu, float weight, float * acc, int ldc) {
    constexpr int FIELDS = 8/B, NV = vectors_of(NH);
    for (int l = 0; l < XQ_LANES; l += 4*NV) {
        int32x4_t hi[NH][NV], lo[NH][NV];
        for (int h = 0; h < NH; ++h) {
            for (int j = 0; j < NV; ++j) {
                hi[h][j] = vdupq_n_s32(0);
                lo[h][j] = vdupq_n_s32(B == 8 ? 128*mu[h].sum : 0);
            }
        }
        for (int w = 0; w < words; ++w) {
            uint8x16_t v[NV];
            for (int j = 0; j < NV; ++j) {
                v[j] = load_words(codes + w*XQ_LANES + l + 4*j);
            }
            add_fields<B, 0, FIELDS>(v, mu, w*FIELDS*4, hi, lo);
        }
        for (int h = 0; h < NH; ++h) {
            for (int j = 0; j < NV; ++j) {
                add_sum(acc + (size_t) h*ldc + l + 4*j, vaddq_s32(vshlq_n_s32(hi[h][j], 8), lo[h][j]), mu[h].step*weight);
            }
        }
    }
}

#else

constexpr int MOST_SETS = 2;
constexpr int vectors_of(int sets) { return sets == 1 ? 4 : 2; }

// 16-bit sums of a lane's four bytes, lanes 0 and 1, then 2 and 3.
struct sums {
    int16x8_t low, high;
    void clear() { low = high = vdupq_n_s16(0); }
    void add(int8x16_t a, int8x16_t b) {
        low  = vmlal_s8(low, vget_low_s8(a), vget_low_s8(b));
        high = vmlal_high_s8(high, a, b);
    }
    int32x4_t lanes() const { return vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)); }
};

// Compilers would load the multipliers of all fields first, and run out of registers.
inline __attribute__((always_inline)) void loads_end_here() { asm volatile("" ::: "memory"); }

template <int B, int K, int NH, int NV>
inline __attribute__((always_inline)) void add_fields(const uint8x16_t * v, const multipliers * mu, int at, sums (&hi)[NH][NV], sums (&lo)[NH][NV]) {
    int8x16_t c[NV];
    for (int j = 0; j < NV; ++j) {
        c[j] = field<B, K>(v[j]);
    }
    for (int h = 0; h < NH; ++h) {
        const int8x16_t mh = four_bytes(mu[h].hi + at), ml = four_bytes(mu[h].lo + at);
        for (int j = 0; j < NV; ++j) {
            hi[h][j].add(c[j], mh);
            lo[h][j].add(c[j], ml);
        }
    }
    if constexpr (K + 1 < 8/B) {
        loads_end_here();
        add_fields<B, K + 1>(v, mu, at + 4, hi, lo);
    }
}

// One plane against NH sets of multipliers. A word adds at most 2*15*128 to a 16-bit sum at 4 bits, 4*3*128 at 2,
// 8*128 at 1; 256 rows are 32, 16 and 8 words.
template <int B, int NH> void mac_plane(int words, const uint32_t * codes, const multipliers * mu, float weight, float * acc, int ldc) {
    constexpr int FIELDS = 8/B, NV = vectors_of(NH), STEPS = B == 4 ? 8 : 16;
    for (int l = 0; l < XQ_LANES; l += 4*NV) {
        int32x4_t wide[NH][NV];
        for (int h = 0; h < NH; ++h) {
            for (int j = 0; j < NV; ++j) {
                wide[h][j] = vdupq_n_s32(0);
            }
        }
        for (int w0 = 0; w0 < words; w0 += STEPS) {
            const int w1 = w0 + STEPS < words ? w0 + STEPS : words;
            sums hi[NH][NV], lo[NH][NV];
            for (int h = 0; h < NH; ++h) {
                for (int j = 0; j < NV; ++j) {
                    hi[h][j].clear();
                    lo[h][j].clear();
                }
            }
            for (int w = w0; w < w1; ++w) {
                uint8x16_t v[NV];
                for (int j = 0; j < NV; ++j) {
                    v[j] = load_words(codes + w*XQ_LANES + l + 4*j);
                }
                add_fields<B, 0>(v, mu, w*FIELDS*4, hi, lo);
            }
            for (int h = 0; h < NH; ++h) {
                for (int j = 0; j < NV; ++j) {
                    wide[h][j] = vaddq_s32(wide[h][j], vaddq_s32(vshlq_n_s32(hi[h][j].lanes(), 8), lo[h][j].lanes()));
                }
            }
        }
        for (int h = 0; h < NH; ++h) {
            for (int j = 0; j < NV; ++j) {
                add_sum(acc + (size_t) h*ldc + l + 4*j, wide[h][j], mu[h].step*weight);
            }
        }
    }
}

// 8-bit rows: four to a word, one a byte; a product fills 16 bits, and is widened at once.
void mac_bytes(int words, const uint32_t * codes, const multipliers & mu, float * acc) {
    const auto add = [](int32x4_t (&s)[2], int8x16_t c, int8x16_t m) {
        s[0] = vpadalq_s16(s[0], vmull_s8(vget_low_s8(c), vget_low_s8(m)));
        s[1] = vpadalq_s16(s[1], vmull_high_s8(c, m));
    };
    for (int l = 0; l < XQ_LANES; l += 8) {
        int32x4_t hi[2][2], lo[2][2];
        for (int j = 0; j < 2; ++j) {
            hi[j][0] = hi[j][1] = lo[j][0] = lo[j][1] = vdupq_n_s32(0);
        }
        for (int w = 0; w < words; ++w) {
            const int8x16_t mh = four_bytes(mu.hi + 4*w), ml = four_bytes(mu.lo + 4*w);
            for (int j = 0; j < 2; ++j) {
                const int8x16_t c = less_128(load_words(codes + w*XQ_LANES + l + 4*j));
                add(hi[j], c, mh);
                add(lo[j], c, ml);
            }
        }
        for (int j = 0; j < 2; ++j) {
            const int32x4_t sum = vaddq_s32(vshlq_n_s32(vpaddq_s32(hi[j][0], hi[j][1]), 8), vpaddq_s32(lo[j][0], lo[j][1]));
            add_sum(acc + l + 4*j, vaddq_s32(sum, vdupq_n_s32(128*mu.sum)), mu.step);
        }
    }
}

#endif

template <int B> void mac_rows(int n, int words, const uint32_t * codes, const multipliers * mu, float weight, float * acc, int ldc) {
#if !XQ_NEON_DOT
    if constexpr (B == 8) {
        for (int j = 0; j < n; ++j) {
            mac_bytes(words, codes, mu[j], acc + (size_t) j*ldc);
        }
    } else
#endif
    {
        for (; n >= MOST_SETS; n -= MOST_SETS, mu += MOST_SETS, acc += MOST_SETS*(size_t) ldc) {
            mac_plane<B, MOST_SETS>(words, codes, mu, weight, acc, ldc);
        }
        switch (n) {
            case 3:  mac_plane<B, 3>(words, codes, mu, weight, acc, ldc); break;
            case 2:  mac_plane<B, 2>(words, codes, mu, weight, acc, ldc); break;
            case 1:  mac_plane<B, 1>(words, codes, mu, weight, acc, ldc); break;
            default: break;
        }
    }
}

template <int B> void prepare_and_mac(int rows, const uint32_t * codes, const float * m, int m_stride, int n, float weight, float * acc, int ldc) {
    constexpr int BATCH = 8;
    multipliers mu[BATCH];
    for (int j0 = 0; j0 < n; j0 += BATCH) {
        const int nj = n - j0 < BATCH ? n - j0 : BATCH;
        for (int j = 0; j < nj; ++j) {
            prepare<B>(m + (size_t) (j0 + j)*m_stride, rows, mu[j]);
        }
        mac_rows<B>(nj, xq_plane_words(rows, B), codes, mu, weight, acc + (size_t) j0*ldc, ldc);
    }
}

void mac_of(int bits, int rows, const uint32_t * codes, const float * m, int m_stride, int n, float * acc, int ldc) {
    switch (bits) {
        case 1: prepare_and_mac<1>(rows, codes, m, m_stride, n, 1.0f, acc, ldc); break;
        case 2: prepare_and_mac<2>(rows, codes, m, m_stride, n, 1.0f, acc, ldc); break;
        case 3:
            prepare_and_mac<2>(rows, codes, m, m_stride, n, 1.0f, acc, ldc);
            prepare_and_mac<1>(rows, codes + (size_t) xq_plane_words(rows, 2)*XQ_LANES, m, m_stride, n, 4.0f, acc, ldc);
            break;
        case 8:  prepare_and_mac<8>(rows, codes, m, m_stride, n, 1.0f, acc, ldc); break;
        default: prepare_and_mac<4>(rows, codes, m, m_stride, n, 1.0f, acc, ldc); break;
    }
}

} // namespace
