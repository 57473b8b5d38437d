// 64-bit Arm: NEON alone, and with dot products (neon_dot.cpp) where the processor has them. The products of packed
// codes are in neon_mac.h. What seals is written without fused multiply-add and adds up in the order of the format,
// so that codes and metadata are the reference's.
#include "kernels/cpu/by_mac.h"

#include "format/xq_ranked.h"
#include "format/xq_unbiased.h"
#include "kernels/cpu/neon_dot.h"
#include "kernels/cpu/neon_mac.h"
#include "kernels/cpu/seal_ranked.h"
#include "reference/reference.h"

#include <cmath>
#include <limits>

#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace {

bool supported() { return true; } // 64-bit Arm has NEON

bool has_dot() {
#if defined(__ARM_FEATURE_DOTPROD)
    return true; // this file is compiled for nothing less, as on macOS
#elif defined(__linux__)
    constexpr unsigned long ASIMDDP = 1ul << 20; // HWCAP_ASIMDDP
    return (getauxval(AT_HWCAP) & ASIMDDP) != 0;
#elif defined(__APPLE__)
    int has = 0;
    size_t size = sizeof(has);
    return sysctlbyname("hw.optional.arm.FEAT_DotProd", &has, &size, nullptr, 0) == 0 && has != 0;
#else
    return false;
#endif
}

uint16_t load_u16(const uint8_t * p) { uint16_t v; std::memcpy(&v, p, 2); return v; }
float    load_f16(const uint8_t * p) { return (float) vget_lane_f16(vreinterpret_f16_u16(vdup_n_u16(load_u16(p))), 0); }

struct f32x8 {
    float32x4_t v[2];
};
void store(float * p, const f32x8 & x) {
    vst1q_f32(p,     x.v[0]);
    vst1q_f32(p + 4, x.v[1]);
}

f32x8 widen_f16(uint16x8_t x) {
    const float16x8_t h = vreinterpretq_f16_u16(x);
    return {{vcvt_f32_f16(vget_low_f16(h)), vcvt_high_f32_f16(h)}};
}

struct u32x8 {
    uint32x4_t v[2];
};
u32x8 widen_u8(uint8x8_t x) {
    const uint16x8_t w = vmovl_u8(x);
    return {{vmovl_u16(vget_low_u16(w)), vmovl_high_u16(w)}};
}
f32x8 float_u8(uint8x8_t x) {
    const u32x8 w = widen_u8(x);
    return {{vcvtq_f32_u32(w.v[0]), vcvtq_f32_u32(w.v[1])}};
}

// Eight bits to eight masks.
u32x8 spread(uint8_t bits) {
    static const uint8_t at[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    const int16x8_t w = vmovl_s8(vreinterpret_s8_u8(vtst_u8(vdup_n_u8(bits), vld1_u8(at))));
    return {{vreinterpretq_u32_s32(vmovl_s16(vget_low_s16(w))), vreinterpretq_u32_s32(vmovl_high_s16(w))}};
}

// exp for x <= 0: 2^n times a degree-6 polynomial of the remainder; relative error below 2e-7.
float32x4_t exp4(float32x4_t x) {
    x = vmaxq_f32(x, vdupq_n_f32(-87.0f));
    const float32x4_t n = vrndnq_f32(vmulq_f32(x, vdupq_n_f32(1.44269504f)));
    float32x4_t r = vfmsq_f32(x, n, vdupq_n_f32(0.693359375f));
    r = vfmsq_f32(r, n, vdupq_n_f32(-2.12194440e-4f));
    float32x4_t p = vdupq_n_f32(1.0f/720);
    p = vfmaq_f32(vdupq_n_f32(1.0f/120), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f/24), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f/6), p, r);
    p = vfmaq_f32(vdupq_n_f32(0.5f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, r);
    const int32x4_t e = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23);
    return vmulq_f32(p, vreinterpretq_f32_s32(e));
}

// ---- scale and zero planes ---------------------------------------------------------------------------------

// A logarithmic grid: xq_log_value of four codes.
struct log_grid {
    uint32x4_t lowest, step;
    explicit log_grid(const uint8_t * head) : lowest(vdupq_n_u32(load_u16(head))), step(vdupq_n_u32(load_u16(head + 2))) {}
    float32x4_t value(uint32x4_t u) const {
        const uint32x4_t bits = vmlaq_u32(lowest, vsubq_u32(u, vdupq_n_u32(1)), step);
        return vreinterpretq_f32_u32(vandq_u32(vshlq_n_u32(bits, 16), vtstq_u32(u, u)));
    }
};

// Values of a linear grid, lo + step*u.
float32x4_t grid_value(float32x4_t lo, float32x4_t step, float32x4_t u) { return vaddq_f32(lo, vmulq_f32(step, u)); }

void read_ranked(const xq_side & side, const uint8_t * meta, float * scale, float * zero) {
    const int rows = side.rows, fine = xq_fine(side);
    const log_grid grid(meta);
    const uint8_t * low = meta + XQ_RANKED_HEAD, * high = low + rows/8;
    const uint8_t * scales = meta + xq_ranked_scale_at(rows), * mids = meta + xq_ranked_mid_at(rows);
    float32x4_t lo[XQ_CLASSES], step[XQ_CLASSES], half[XQ_CLASSES]; // a class's grid of midpoints and half its levels
    for (int c = 0; c < XQ_CLASSES; ++c) {
        lo[c]   = vdupq_n_f32(load_f16(meta + xq_ranked_grid_at(c)));
        step[c] = vdupq_n_f32(load_f16(meta + xq_ranked_grid_at(c) + 2));
        half[c] = vdupq_n_f32(0.5f * (float) xq_code_max(xq_class_bits(c, fine)));
    }
    for (int i = 0; i < rows; i += 8) {
        uint32_t four;
        std::memcpy(&four, scales + i/2, 4);
        const uint8x8_t pair = vcreate_u8(four);
        const u32x8 u = widen_u8(vzip1_u8(vand_u8(pair, vdup_n_u8(15)), vshr_n_u8(pair, 4)));
        const u32x8 l = spread(low[i/8]), h = spread(high[i/8]);
        const f32x8 at = float_u8(vld1_u8(mids + i));
        f32x8 s, z;
        for (int k = 0; k < 2; ++k) {
            const auto of_class = [&](const float32x4_t * all) {
                return vbslq_f32(h.v[k], vbslq_f32(l.v[k], all[3], all[2]), vbslq_f32(l.v[k], all[1], all[0]));
            };
            const float32x4_t mid  = grid_value(of_class(lo), of_class(step), at.v[k]);
            const float32x4_t span = of_class(half);
            s.v[k] = grid.value(u.v[k]);
            z.v[k] = vsubq_f32(mid, vmulq_f32(s.v[k], span));
        }
        store(scale + i, s);
        store(zero + i, z);
    }
}

void read_meta(const xq_side & side, const uint8_t * meta, float * scale, float * zero) {
    const int rows = side.rows;
    if (rows % 8 != 0) {
        return xq_ref_read_meta(side, meta, scale, zero);
    }
    if (side.meta == XQ_META_RANKED) {
        return read_ranked(side, meta, scale, zero);
    }
    if (side.meta == XQ_META_LOG8) {
        const log_grid grid(meta);
        const float32x4_t minus_half = vdupq_n_f32(-xq_half_levels(side.bits));
        for (int i = 0; i < rows; i += 8) {
            const u32x8 u = widen_u8(vld1_u8(meta + XQ_LOG_HEAD + i));
            const f32x8 s = {{grid.value(u.v[0]), grid.value(u.v[1])}};
            store(scale + i, s);
            store(zero  + i, {{vmulq_f32(s.v[0], minus_half), vmulq_f32(s.v[1], minus_half)}});
        }
        return;
    }
    if (side.meta == XQ_META_F16) {
        for (int i = 0; i < rows; i += 8) {
            store(scale + i, widen_f16(vreinterpretq_u16_u8(vld1q_u8(meta + 2*i))));
            store(zero  + i, widen_f16(vreinterpretq_u16_u8(vld1q_u8(meta + 2*(rows + i)))));
        }
        return;
    }
    const float32x4_t s0 = vdupq_n_f32(load_f16(meta)),     s1 = vdupq_n_f32(load_f16(meta + 2));
    const float32x4_t m0 = vdupq_n_f32(load_f16(meta + 4)), m1 = vdupq_n_f32(load_f16(meta + 6));
    const float32x4_t half = vdupq_n_f32(xq_half_levels(side.bits));
    for (int i = 0; i < rows; i += 8) {
        const f32x8 us = float_u8(vld1_u8(meta + XQ_META_Q8_HEAD + i)), um = float_u8(vld1_u8(meta + XQ_META_Q8_HEAD + rows + i));
        f32x8 s, z;
        for (int k = 0; k < 2; ++k) {
            s.v[k] = grid_value(s0, s1, us.v[k]);
            z.v[k] = vsubq_f32(grid_value(m0, m1, um.v[k]), vmulq_f32(s.v[k], half));
        }
        store(scale + i, s);
        store(zero + i, z);
    }
}

float scale_row(const float * x, const float * scale, const float * zero, int rows, float * m, float * top) {
    if (rows % 8 != 0) {
        return xq_kernels_generic.scale_row(x, scale, zero, rows, m, top);
    }
    const float32x4_t none = vdupq_n_f32(0.0f);
    float32x4_t most[2] = {none, none}, sum[2] = {none, none};
    for (int i = 0; i < rows; i += 8) {
        for (int k = 0; k < 2; ++k) {
            const float32x4_t xi = vld1q_f32(x + i + 4*k), mi = vmulq_f32(xi, vld1q_f32(scale + i + 4*k));
            vst1q_f32(m + i + 4*k, mi);
            most[k] = vmaxq_f32(most[k], vabsq_f32(mi));
            sum[k]  = vfmaq_f32(sum[k], xi, vld1q_f32(zero + i + 4*k));
        }
    }
    for (int i = rows; i < ((rows + 31) & ~31); i += 4) {
        vst1q_f32(m + i, none);
    }
    *top = vmaxvq_f32(vmaxq_f32(most[0], most[1]));
    return vaddvq_f32(vaddq_f32(sum[0], sum[1]));
}

float order_row(const xq_segments & segments, const float * m, float * out) {
    float most = 0.0f;
    for (int k = 0; k < segments.n; ++k) {
        const auto & seg = segments.list[k];
        const int end = seg.at + seg.rows, padded = (seg.rows + 31) & ~31;
        for (int j = seg.at; j < end; ++j) {
            out[j] = m[segments.order[j]];
        }
        for (int j = end; j < seg.at + padded; ++j) {
            out[j] = 0.0f;
        }
        const float share = largest_size(out + seg.at, padded)*(float) xq_code_max(seg.bits);
        most = share > most ? share : most;
    }
    return most;
}

// ---- seal and unpack ---------------------------------------------------------------------------------------

struct row32 {
    float32x4_t v[8];
    explicit row32(const float * x) {
        for (int j = 0; j < 8; ++j) {
            v[j] = vld1q_f32(x + 4*j);
        }
    }
    float lowest() const {
        const float32x4_t a = vminq_f32(vminq_f32(v[0], v[1]), vminq_f32(v[2], v[3])), b = vminq_f32(vminq_f32(v[4], v[5]), vminq_f32(v[6], v[7]));
        return vminvq_f32(vminq_f32(a, b));
    }
    float highest() const {
        const float32x4_t a = vmaxq_f32(vmaxq_f32(v[0], v[1]), vmaxq_f32(v[2], v[3])), b = vmaxq_f32(vmaxq_f32(v[4], v[5]), vmaxq_f32(v[6], v[7]));
        return vmaxvq_f32(vmaxq_f32(a, b));
    }
    // in the order of xq_unbiased.h: the upper half of the lanes onto the lower
    float sum() const {
        const float32x4_t a = vaddq_f32(vaddq_f32(v[0], v[4]), vaddq_f32(v[2], v[6])), b = vaddq_f32(vaddq_f32(v[1], v[5]), vaddq_f32(v[3], v[7]));
        const float32x4_t four = vaddq_f32(a, b);
        const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
        return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
    }
};

// Codes rounded down and clamped to [0, n_max].
uint32x4_t codes_of(float32x4_t x, int32x4_t n_max) {
    return vreinterpretq_u32_s32(vmaxq_s32(vminq_s32(vcvtq_s32_f32(x), n_max), vdupq_n_s32(0)));
}
uint32x4_t encode(float32x4_t x, float32x4_t lo, float32x4_t inv, int32x4_t n_max) {
    return codes_of(vaddq_f32(vmulq_f32(vsubq_f32(x, lo), inv), vdupq_n_f32(0.5f)), n_max);
}

// Where a row's codes lie in the words of its lanes.
struct place {
    uint32_t * low, * high; // high: the second plane of 3-bit codes
    int32x4_t  at, at_high;
    uint32x4_t mask;
    place(uint32_t * codes, int row, int bits) // of a class of a ranked strip
        : low(codes + (size_t) xq_code_word(row, bits)*XQ_LANES), high(nullptr),
          at(vdupq_n_s32((row*bits) & 31)), at_high(at), mask(vdupq_n_u32((1u << bits) - 1)) {}
    place(const xq_side & side, uint32_t * codes, int row) : place(codes, row, xq_plane_bits(side.bits, 0)) {
        if (side.bits == 3) {
            high    = codes + (size_t) (xq_plane_words(side.rows, 2) + xq_code_word(row, 1))*XQ_LANES;
            at_high = vdupq_n_s32(row & 31);
        }
    }
    void put(int lane, uint32x4_t code) const {
        vst1q_u32(low + lane, vorrq_u32(vld1q_u32(low + lane), vshlq_u32(vandq_u32(code, mask), at)));
        if (high) {
            vst1q_u32(high + lane, vorrq_u32(vld1q_u32(high + lane), vshlq_u32(vshrq_n_u32(code, 2), at_high)));
        }
    }
    uint32x4_t get(int lane) const {
        const uint32x4_t code = vandq_u32(vshlq_u32(vld1q_u32(low + lane), vnegq_s32(at)), mask);
        if (!high) {
            return code;
        }
        const uint32x4_t upper = vandq_u32(vshlq_u32(vld1q_u32(high + lane), vnegq_s32(at_high)), vdupq_n_u32(1));
        return vorrq_u32(code, vshlq_n_u32(upper, 2));
    }
};

void seal_ranked(const xq_side & side, const float * x, uint32_t * codes, uint8_t * meta) {
    xq_seal_ranked<row32>(side, x, codes, meta, [](const row32 & row, float base, float inv, int bits, uint32_t * start, int nth) {
        const place to(start, nth, bits);
        for (int j = 0; j < 8; ++j) {
            to.put(4*j, encode(row.v[j], vdupq_n_f32(base), vdupq_n_f32(inv), vdupq_n_s32(xq_code_max(bits))));
        }
    });
}

// Whole strips whose owner has all rows and lanes; anything else (holes, followers, short strips) goes to the
// reference, which is rare: at most one strip a head at a head dim that is not a multiple of 32.
void seal_strip(const xq_side & side, const float * x, const uint8_t * row_ok, uint32_t lane_mask,
                uint32_t * codes, bool leader, uint8_t * meta) {
    if (side.meta == XQ_META_RANKED && lane_mask == 0xFFFFFFFFu) {
        return seal_ranked(side, x, codes, meta);
    }
    if (leader || row_ok || lane_mask != 0xFFFFFFFFu || side.meta == XQ_META_RANKED) {
        return xq_ref_seal_strip(side, x, row_ok, lane_mask, codes, leader, meta);
    }
    const int32x4_t n_max = vdupq_n_s32(xq_code_max(side.bits));
    float scale[XQ_MAX_ROWS], zero[XQ_MAX_ROWS], all = 0.0f;
    std::memset(codes, 0, sizeof(uint32_t) * xq_strip_words(side.rows, side.bits));
    for (int i = 0; i < side.rows; ++i) {
        const row32 row(x + (size_t) i*XQ_LANES);
        const float lo = row.lowest(), hi = row.highest();
        scale[i] = xq_relaxed_scale(lo, hi, side.bits, side.eta);
        zero [i] = xq_relaxed_zero (lo, hi, side.eta);
        all += hi - lo; // minimum and maximum of a NaN and a number are NaN
        const float32x4_t inv = vdupq_n_f32(xq_group_inv(lo, hi, side.bits));
        const place to(side, codes, i);
        for (int j = 0; j < 8; ++j) {
            to.put(4*j, encode(row.v[j], vdupq_n_f32(lo), inv, n_max));
        }
    }
    if (!xq_is_finite(all)) {
        return xq_ref_seal_strip(side, x, row_ok, lane_mask, codes, leader, meta);
    }
    xq_ref_write_meta(side, scale, zero, meta);
}

void seal_unbiased(const xq_side & side, const float * x, int n, int lanes, const uint8_t * row_ok, uint32_t * codes, uint8_t * meta) {
    if (lanes != XQ_LANES || row_ok) { // rare: holes, or a short last strip
        return xq_ref_seal_unbiased(side, x, n, lanes, row_ok, codes, meta);
    }
    const int words = xq_side_words(side);
    const int32x4_t n_max = vdupq_n_s32(xq_code_max(side.bits));
    const float32x4_t half = vdupq_n_f32(xq_half_levels(side.bits)), round = vdupq_n_f32(xq_half_levels(side.bits) + 0.5f);
    float scale[XQ_TILE], all = 0.0f;
    std::memset(codes, 0, sizeof(uint32_t)*n*words);
    for (int i = 0; i < side.rows; ++i) {
        const row32 a(x + (size_t) i*XQ_LANES), b(x + (size_t) (side.rows*(n - 1) + i)*XQ_LANES);
        row32 square = a, along = a;
        for (int j = 0; j < 8; ++j) {
            square.v[j] = vmulq_f32(a.v[j], a.v[j]);
            if (n == 2) {
                square.v[j] = vaddq_f32(square.v[j], vmulq_f32(b.v[j], b.v[j]));
            }
        }
        const float xx = square.sum();
        all += xx;
        const float32x4_t inv = vdupq_n_f32(xq_unbiased_inv(std::sqrt(xx / (float) (n*XQ_LANES)), side.bits));
        for (int s = 0; s < n; ++s) {
            const place to(side, codes + (size_t) s*words, i);
            const row32 & from = s == 0 ? a : b;
            for (int j = 0; j < 8; ++j) {
                const uint32x4_t c = codes_of(vaddq_f32(vmulq_f32(from.v[j], inv), round), n_max);
                const float32x4_t part = vmulq_f32(from.v[j], vsubq_f32(vcvtq_f32_u32(c), half));
                along.v[j] = s == 0 ? part : vaddq_f32(along.v[j], part);
                to.put(4*j, c);
            }
        }
        scale[i] = xq_unbiased_scale(xx, along.sum());
    }
    if (!xq_is_finite(all)) { // numbers of pages are f16: squares of finite ones add up to a finite sum
        return xq_ref_seal_unbiased(side, x, n, lanes, row_ok, codes, meta);
    }
    xq_ref_write_log8(side.rows, scale, meta);
}

void unpack_strip(const xq_side & side, const uint32_t * codes, const uint8_t * meta, float * out) {
    if (side.meta == XQ_META_RANKED) {
        return xq_ref_unpack_strip(side, codes, meta, out); // only the rare exact scores need it
    }
    float scale[XQ_MAX_ROWS], zero[XQ_MAX_ROWS];
    read_meta(side, meta, scale, zero);
    for (int i = 0; i < side.rows; ++i) {
        const place from(side, const_cast<uint32_t *>(codes), i); // only read
        for (int l = 0; l < XQ_LANES; l += 4) {
            vst1q_f32(out + i*XQ_LANES + l, vfmaq_n_f32(vdupq_n_f32(zero[i]), vcvtq_f32_u32(from.get(l)), scale[i]));
        }
    }
}

// ---- products of f32 and f16 -------------------------------------------------------------------------------

// NR rows of A at once against 32 lanes: 8*NR accumulators stay in registers.
template <int NR> void gemm_rows(const float * a, int lda, const float * b, int rows, float * c, int ldc) {
    float32x4_t acc[NR][8];
    for (int r = 0; r < NR; ++r) {
        for (int j = 0; j < 8; ++j) {
            acc[r][j] = vld1q_f32(c + (size_t) r*ldc + 4*j);
        }
    }
    for (int i = 0; i < rows; ++i) {
        float32x4_t x[NR];
        for (int r = 0; r < NR; ++r) {
            x[r] = vld1q_dup_f32(a + (size_t) r*lda + i);
        }
        for (int j = 0; j < 8; ++j) {
            const float32x4_t v = vld1q_f32(b + i*XQ_LANES + 4*j);
            for (int r = 0; r < NR; ++r) {
                acc[r][j] = vfmaq_f32(acc[r][j], x[r], v);
            }
        }
    }
    for (int r = 0; r < NR; ++r) {
        for (int j = 0; j < 8; ++j) {
            vst1q_f32(c + (size_t) r*ldc + 4*j, acc[r][j]);
        }
    }
}

void gemm32(const float * a, int lda, int n, const float * b, int rows, float * c, int ldc) {
    for (; n >= 3; n -= 3, a += 3*(size_t) lda, c += 3*(size_t) ldc) {
        gemm_rows<3>(a, lda, b, rows, c, ldc);
    }
    if (n == 2) {
        gemm_rows<2>(a, lda, b, rows, c, ldc);
    } else if (n == 1) {
        gemm_rows<1>(a, lda, b, rows, c, ldc);
    }
}

void gemm32_f16(const float * a, int lda, int n, const uint16_t * b, size_t ldb, int rows, int lanes,
                float * c, int ldc) {
    alignas(16) float strip[XQ_TILE*XQ_LANES];
    if (lanes % 8 != 0 || rows > XQ_TILE) {
        return xq_kernels_generic.gemm32_f16(a, lda, n, b, ldb, rows, lanes, c, ldc);
    }
    for (int i = 0; i < rows; ++i) {
        for (int l = 0; l < XQ_LANES; l += 8) {
            store(strip + i*XQ_LANES + l, widen_f16(l < lanes ? vld1q_u16(b + i*ldb + l) : vdupq_n_u16(0)));
        }
    }
    gemm32(a, lda, n, strip, rows, c, ldc);
}

void transpose8(const uint16_t * in, size_t ldi, float * out) {
    uint16x8_t v[8], t[8];
    for (int r = 0; r < 8; ++r) {
        v[r] = vld1q_u16(in + r*ldi);
    }
    for (int i = 0; i < 8; i += 2) { // pairs of rows
        t[i]     = vtrn1q_u16(v[i], v[i + 1]);
        t[i + 1] = vtrn2q_u16(v[i], v[i + 1]);
    }
    for (int k = 0; k < 2; ++k) { // columns 4h + 2j + k of four rows
        for (int i = k; i < 8; i += 4) {
            const uint32x4_t a = vreinterpretq_u32_u16(t[i]), b = vreinterpretq_u32_u16(t[i + 2]);
            v[i]     = vreinterpretq_u16_u32(vtrn1q_u32(a, b));
            v[i + 2] = vreinterpretq_u16_u32(vtrn2q_u32(a, b));
        }
    }
    for (int c = 0; c < 4; ++c) { // columns c and c + 4 of eight rows
        const uint64x2_t a = vreinterpretq_u64_u16(v[c]), b = vreinterpretq_u64_u16(v[c + 4]);
        store(out + c*XQ_LANES,       widen_f16(vreinterpretq_u16_u64(vtrn1q_u64(a, b))));
        store(out + (c + 4)*XQ_LANES, widen_f16(vreinterpretq_u16_u64(vtrn2q_u64(a, b))));
    }
}

void transpose_f16(const uint16_t * k, size_t ldk, int dim, float * out) {
    if (dim % 8 != 0) {
        return xq_kernels_generic.transpose_f16(k, ldk, dim, out);
    }
    for (int t = 0; t < XQ_TILE; t += 8) {
        for (int i = 0; i < dim; i += 8) {
            transpose8(k + t*ldk + i, ldk, out + i*XQ_LANES + t);
        }
    }
}

// Butterflies: within registers up to a distance of 2, between registers above.
void rotate(float * x, int n, int block) {
    if (block % 8 != 0) {
        return xq_ref_rotate(x, n, block);
    }
    const float32x4_t norm = vdupq_n_f32(1.0f / std::sqrt((float) block));
    const uint32x4_t odd1 = vreinterpretq_u32_u64(vdupq_n_u64(0x8000000000000000u));
    const uint32x4_t odd2 = vcombine_u32(vdup_n_u32(0), vdup_n_u32(0x80000000u));
    const auto flip = [](float32x4_t a, uint32x4_t sign) { return vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(a), sign)); };
    const int regs = block/4;
    for (float * b = x; b < x + n; b += block) {
        float32x4_t v[16];
        for (int r = 0; r < regs; ++r) {
            float32x4_t a = vld1q_f32(b + 4*r);
            a = vaddq_f32(flip(a, odd1), vrev64q_f32(a));    // neighbours
            a = vaddq_f32(flip(a, odd2), vextq_f32(a, a, 2)); // pairs
            v[r] = a;
        }
        for (int h = 1; h < regs; h *= 2) {
            for (int i = 0; i < regs; i += 2*h) {
                for (int j = i; j < i + h; ++j) {
                    const float32x4_t u = v[j], w = v[j + h];
                    v[j]     = vaddq_f32(u, w);
                    v[j + h] = vsubq_f32(u, w);
                }
            }
        }
        for (int r = 0; r < regs; ++r) {
            vst1q_f32(b + 4*r, vmulq_f32(v[r], norm));
        }
    }
}

float softmax(float * s, int n, float * sum) {
    const float32x4_t none = vdupq_n_f32(-std::numeric_limits<float>::infinity());
    float32x4_t most[2] = {none, none}, total[2] = {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
    for (int i = 0; i < n; i += 8) {
        most[0] = vmaxnmq_f32(most[0], vld1q_f32(s + i)); // of a number and a NaN the number
        most[1] = vmaxnmq_f32(most[1], vld1q_f32(s + i + 4));
    }
    const float top = vmaxvq_f32(vmaxq_f32(most[0], most[1]));
    if (!(top > -std::numeric_limits<float>::infinity())) {
        return xq_softmax_of_none(s, n, sum);
    }
    for (int i = 0; i < n; i += 8) {
        for (int k = 0; k < 2; ++k) {
            const float32x4_t v = vld1q_f32(s + i + 4*k), p = exp4(vsubq_f32(v, vdupq_n_f32(top)));
            const float32x4_t there = vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(p), vceqq_f32(v, none)));
            vst1q_f32(s + i + 4*k, there);
            total[k] = vaddq_f32(total[k], there);
        }
    }
    *sum = vaddvq_f32(vaddq_f32(total[0], total[1]));
    return top;
}

bool finite(const float * x, int n) {
    const float32x4_t none = vdupq_n_f32(0.0f);
    float32x4_t sum[2] = {none, none}; // 0 times what is not finite is a NaN
    for (int i = 0; i < n; i += 8) {
        sum[0] = vfmaq_f32(sum[0], none, vld1q_f32(x + i));
        sum[1] = vfmaq_f32(sum[1], none, vld1q_f32(x + i + 4));
    }
    return vaddvq_f32(vaddq_f32(sum[0], sum[1])) == 0.0f;
}

// The products of either kind of processor.
template <const xq_cpu_kernels & KERN>
void key_scores(const xq_side & side, const xq_sealed_tiles & tiles, const float * q, int ldq, int n, float * s, int lds, uint64_t * coarse) {
    xq_key_scores(KERN, side, tiles, q, ldq, n, s, lds, coarse);
}
template <const xq_cpu_kernels & KERN>
void add_values(const xq_side & side, const xq_sealed_tiles & tiles, const float * p, int ldp, int n, float * o, int ldo) {
    xq_add_values(KERN, side, tiles, p, ldp, n, o, ldo);
}

} // namespace

const xq_cpu_kernels xq_kernels_neon = {
    "neon", supported, read_meta, scale_row, order_row, mac_of, key_scores<xq_kernels_neon>, add_values<xq_kernels_neon>,
    seal_strip, seal_unbiased, unpack_strip, gemm32, gemm32_f16, transpose_f16, rotate, softmax, finite,
};

const xq_cpu_kernels xq_kernels_neon_dot = {
    "neon-dotprod", has_dot, read_meta, scale_row, order_row, xq_neon_dot_mac, key_scores<xq_kernels_neon_dot>, add_values<xq_kernels_neon_dot>,
    seal_strip, seal_unbiased, unpack_strip, gemm32, gemm32_f16, transpose_f16, rotate, softmax, finite,
};
