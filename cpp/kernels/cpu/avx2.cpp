// AVX2 + FMA + F16C implementation.
//
// mac: avx2_mac.h; ranked keys: avx2_keys.h; values: avx2_values.cpp; sealing: avx2_seal.cpp.
#include "kernels/cpu/avx2_keys.h"
#include "kernels/cpu/by_mac.h"

#include "format/xq_ranked.h"
#include "format/xq_unbiased.h"
#include "reference/reference.h"

#include <cmath>
#include <cstring>
#include <limits>

using namespace xq_avx2;

namespace {

bool supported() {
#if defined(__GNUC__) || defined(__clang__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); // F16C is older than both; Clang 14 does not know its name
#else
    return true; // MSVC builds for AVX2 run on nothing less
#endif
}

float from_f16(uint16_t x) { return _cvtsh_ss(x); }

uint16_t load_u16(const uint8_t * p) { uint16_t v; std::memcpy(&v, p, 2); return v; }

__m256 load8_f16(const uint16_t * p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) p)); }

__m256 load8_u8(const uint8_t * p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *) p)));
}

// exp for x <= 0: 2^n times a degree-6 polynomial of the remainder; relative error below 2e-7.
__m256 exp8(__m256 x) {
    x = _mm256_max_ps(_mm256_set1_ps(-87.0f), x); // the second of the two if one is a NaN
    const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
    __m256 p = _mm256_set1_ps(1.0f/720);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f/120));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f/24));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f/6));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    const __m256i e = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(p, _mm256_castsi256_ps(e));
}

// ---- scale and zero planes ---------------------------------------------------------------------------------

// xq_log_value of eight codes: bits (lowest + (u-1)*step) << 16, 0 where u is 0.
__m256 log_values(__m256i u, __m256i lowest, __m256i step) {
    const __m256i one  = _mm256_set1_epi32(1);
    const __m256i bits = _mm256_add_epi32(lowest, _mm256_mullo_epi32(_mm256_sub_epi32(u, one), step));
    return _mm256_castsi256_ps(_mm256_andnot_si256(_mm256_cmpgt_epi32(one, u), _mm256_slli_epi32(bits, 16)));
}

// Eight bits to eight masks.
__m256i spread(int bits) {
    const __m256i at = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(bits), at), at);
}

void read_ranked(const xq_side & side, const uint8_t * meta, float * scale, float * zero) {
    const int rows = side.rows, fine = xq_fine(side);
    const __m256i lowest = _mm256_set1_epi32(load_u16(meta)), step = _mm256_set1_epi32(load_u16(meta + 2));
    const uint8_t * grids = meta + xq_ranked_grid_at(0);
    const uint8_t * low = meta + XQ_RANKED_HEAD, * high = low + rows/8;
    const uint8_t * scales = meta + xq_ranked_scale_at(rows), * mids = meta + xq_ranked_mid_at(rows);
    // of each class, twice: the midpoints' grid and half the levels
    alignas(32) float lo_of[8], step_of[8], half_of[8];
    for (int c = 0; c < XQ_CLASSES; ++c) {
        lo_of  [c] = lo_of  [c + 4] = from_f16(load_u16(grids + 4*c));
        step_of[c] = step_of[c + 4] = from_f16(load_u16(grids + 4*c + 2));
        half_of[c] = half_of[c + 4] = 0.5f * (float) xq_code_max(xq_class_bits(c, fine));
    }
    const __m256 lo = _mm256_load_ps(lo_of), grid_step = _mm256_load_ps(step_of), half = _mm256_load_ps(half_of);
    for (int i = 0; i < rows; i += 8) {
        int four;
        std::memcpy(&four, scales + i/2, 4);
        const __m256i u = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(four), _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28)),
                                           _mm256_set1_epi32(15));
        const __m256 s = log_values(u, lowest, step);
        const __m256i l = spread(low[i/8]), h = spread(high[i/8]);
        const __m256i cls = _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_add_epi32(l, _mm256_add_epi32(h, h)));
        const __m256 mid = _mm256_add_ps(_mm256_permutevar_ps(lo, cls),
                                         _mm256_mul_ps(_mm256_permutevar_ps(grid_step, cls), load8_u8(mids + i)));
        const __m256 span = _mm256_permutevar_ps(half, cls);
        _mm256_storeu_ps(scale + i, s);
        _mm256_storeu_ps(zero  + i, _mm256_sub_ps(mid, _mm256_mul_ps(s, span)));
    }
}

void read_meta(const xq_side & side, const uint8_t * meta, float * scale, float * zero) {
    if (side.rows % 8 != 0) {
        return xq_ref_read_meta(side, meta, scale, zero);
    }
    if (side.meta == XQ_META_RANKED) {
        return read_ranked(side, meta, scale, zero);
    }
    if (side.meta == XQ_META_LOG8) {
        const __m256i lowest = _mm256_set1_epi32(load_u16(meta)), step = _mm256_set1_epi32(load_u16(meta + 2));
        const __m256  minus_half = _mm256_set1_ps(-xq_half_levels(side.bits));
        for (int i = 0; i < side.rows; i += 8) {
            const __m256 s = log_values(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *) (meta + XQ_LOG_HEAD + i))), lowest, step);
            _mm256_storeu_ps(scale + i, s);
            _mm256_storeu_ps(zero  + i, _mm256_mul_ps(s, minus_half));
        }
        return;
    }
    if (side.meta == XQ_META_F16) {
        const uint16_t * h = (const uint16_t *) meta;
        for (int i = 0; i < side.rows; i += 8) {
            _mm256_storeu_ps(scale + i, load8_f16(h + i));
            _mm256_storeu_ps(zero  + i, load8_f16(h + side.rows + i));
        }
        return;
    }
    const __m256 s0 = _mm256_set1_ps(from_f16(load_u16(meta))),     s1 = _mm256_set1_ps(from_f16(load_u16(meta + 2)));
    const __m256 m0 = _mm256_set1_ps(from_f16(load_u16(meta + 4))), m1 = _mm256_set1_ps(from_f16(load_u16(meta + 6)));
    const __m256 half = _mm256_set1_ps(0.5f * (float) xq_code_max(side.bits));
    for (int i = 0; i < side.rows; i += 8) {
        const __m256 s = _mm256_add_ps(s0, _mm256_mul_ps(s1, load8_u8(meta + XQ_META_Q8_HEAD + i)));
        const __m256 m = _mm256_add_ps(m0, _mm256_mul_ps(m1, load8_u8(meta + XQ_META_Q8_HEAD + side.rows + i)));
        _mm256_storeu_ps(scale + i, s);
        _mm256_storeu_ps(zero  + i, _mm256_sub_ps(m, _mm256_mul_ps(s, half)));
    }
}

float scale_row(const float * x, const float * scale, const float * zero, int rows, float * m, float * top) {
    if (rows % 8 != 0) {
        return xq_kernels_generic.scale_row(x, scale, zero, rows, m, top);
    }
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 most = _mm256_setzero_ps(), sum = most;
    for (int i = 0; i < rows; i += 8) {
        const __m256 xi = _mm256_loadu_ps(x + i);
        const __m256 mi = _mm256_mul_ps(xi, _mm256_loadu_ps(scale + i));
        _mm256_storeu_ps(m + i, mi);
        most = _mm256_max_ps(most, _mm256_andnot_ps(sign, mi));
        sum  = _mm256_fmadd_ps(xi, _mm256_loadu_ps(zero + i), sum);
    }
    for (int i = rows; i < ((rows + 31) & ~31); ++i) {
        m[i] = 0.0f;
    }
    *top = hmax(most);
    return hsum(sum);
}

float order_row(const xq_segments & segments, const float * m, float * out) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    float most = 0.0f;
    for (int k = 0; k < segments.n; ++k) {
        const auto & seg = segments.list[k];
        const int end = seg.at + seg.rows, padded = seg.at + ((seg.rows + 31) & ~31);
        __m256 top = _mm256_setzero_ps();
        for (int j = seg.at; j < padded; j += 8) {
            const uint8_t * at = segments.order + j; // a gather takes 1.5 times as long (Zen 5)
            const __m256i in = _mm256_cmpgt_epi32(_mm256_set1_epi32(end - j), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
            const __m256  v  = _mm256_and_ps(_mm256_setr_ps(m[at[0]], m[at[1]], m[at[2]], m[at[3]], m[at[4]], m[at[5]], m[at[6]], m[at[7]]),
                                             _mm256_castsi256_ps(in));
            _mm256_storeu_ps(out + j, v);
            top = _mm256_max_ps(top, _mm256_andnot_ps(sign, v));
        }
        const float share = hmax(top)*(float) xq_code_max(seg.bits);
        most = share > most ? share : most;
    }
    return most;
}

// ---- unpack ------------------------------------------------------------------------------------------------

void unpack_strip(const xq_side & side, const uint32_t * codes, const uint8_t * meta, float * out) {
    if (side.meta == XQ_META_RANKED) {
        return xq_ref_unpack_strip(side, codes, meta, out); // only the rare exact scores need it
    }
    float scale[XQ_MAX_ROWS], zero[XQ_MAX_ROWS];
    read_meta(side, meta, scale, zero);
    const int b0 = xq_plane_bits(side.bits, 0);
    const uint32_t * high = codes + (size_t) xq_plane_words(side.rows, b0)*XQ_LANES;
    const __m256i mask0 = _mm256_set1_epi32((1 << b0) - 1), mask1 = _mm256_set1_epi32(1);
    for (int i = 0; i < side.rows; ++i) {
        const __m256 s = _mm256_set1_ps(scale[i]), z = _mm256_set1_ps(zero[i]);
        const __m256i * w0 = (const __m256i *) (codes + xq_code_word(i, b0)*XQ_LANES);
        const __m256i * w1 = (const __m256i *) (high  + xq_code_word(i, 1)*XQ_LANES);
        const __m128i at0 = _mm_cvtsi32_si128((i*b0) & 31), at1 = _mm_cvtsi32_si128(i & 31);
        for (int j = 0; j < 4; ++j) {
            __m256i c = _mm256_and_si256(_mm256_srl_epi32(_mm256_loadu_si256(w0 + j), at0), mask0);
            if (side.bits == 3) {
                const __m256i h = _mm256_and_si256(_mm256_srl_epi32(_mm256_loadu_si256(w1 + j), at1), mask1);
                c = _mm256_or_si256(c, _mm256_slli_epi32(h, 2));
            }
            _mm256_storeu_ps(out + i*XQ_LANES + 8*j, _mm256_fmadd_ps(s, _mm256_cvtepi32_ps(c), z));
        }
    }
}

// ---- products of f32 and f16 -------------------------------------------------------------------------------

// NR rows of A at once against 32 lanes: 4*NR accumulators stay in registers.
template <int NR>
void gemm_rows(const float * a, int lda, const float * b, int rows, float * c, int ldc) {
    __m256 acc[NR][4];
    for (int r = 0; r < NR; ++r) {
        for (int j = 0; j < 4; ++j) {
            acc[r][j] = _mm256_loadu_ps(c + (size_t) r*ldc + 8*j);
        }
    }
    for (int i = 0; i < rows; ++i) {
        const __m256 b0 = _mm256_loadu_ps(b + i*XQ_LANES),      b1 = _mm256_loadu_ps(b + i*XQ_LANES + 8);
        const __m256 b2 = _mm256_loadu_ps(b + i*XQ_LANES + 16), b3 = _mm256_loadu_ps(b + i*XQ_LANES + 24);
        for (int r = 0; r < NR; ++r) {
            const __m256 x = _mm256_broadcast_ss(a + (size_t) r*lda + i);
            acc[r][0] = _mm256_fmadd_ps(x, b0, acc[r][0]);
            acc[r][1] = _mm256_fmadd_ps(x, b1, acc[r][1]);
            acc[r][2] = _mm256_fmadd_ps(x, b2, acc[r][2]);
            acc[r][3] = _mm256_fmadd_ps(x, b3, acc[r][3]);
        }
    }
    for (int r = 0; r < NR; ++r) {
        for (int j = 0; j < 4; ++j) {
            _mm256_storeu_ps(c + (size_t) r*ldc + 8*j, acc[r][j]);
        }
    }
}

void gemm32(const float * a, int lda, int n, const float * b, int rows, float * c, int ldc) {
    int j = 0;
    for (; j + 2 <= n; j += 2) {
        gemm_rows<2>(a + (size_t) j*lda, lda, b, rows, c + (size_t) j*ldc, ldc);
    }
    if (j < n) {
        gemm_rows<1>(a + (size_t) j*lda, lda, b, rows, c + (size_t) j*ldc, ldc);
    }
}

void gemm32_f16(const float * a, int lda, int n, const uint16_t * b, size_t ldb, int rows, int lanes,
                float * c, int ldc) {
    alignas(32) float strip[XQ_TILE*XQ_LANES];
    if (lanes % 8 != 0 || rows > XQ_TILE) {
        return xq_kernels_generic.gemm32_f16(a, lda, n, b, ldb, rows, lanes, c, ldc);
    }
    for (int i = 0; i < rows; ++i) {
        for (int l = 0; l < XQ_LANES; l += 8) {
            _mm256_store_ps(strip + i*XQ_LANES + l, l < lanes ? load8_f16(b + i*ldb + l) : _mm256_setzero_ps());
        }
    }
    gemm32(a, lda, n, strip, rows, c, ldc);
}

void transpose8(const __m256 * in, float * out, int ldo) {
    __m256 t[8], u[8];
    for (int i = 0; i < 8; i += 2) {
        t[i]     = _mm256_unpacklo_ps(in[i], in[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(in[i], in[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        u[i]     = _mm256_shuffle_ps(t[i],     t[i + 2], 0x44);
        u[i + 1] = _mm256_shuffle_ps(t[i],     t[i + 2], 0xEE);
        u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
    }
    for (int i = 0; i < 4; ++i) {
        _mm256_storeu_ps(out + i*ldo,       _mm256_permute2f128_ps(u[i], u[i + 4], 0x20));
        _mm256_storeu_ps(out + (i + 4)*ldo, _mm256_permute2f128_ps(u[i], u[i + 4], 0x31));
    }
}

void transpose_f16(const uint16_t * k, size_t ldk, int dim, float * out) {
    if (dim % 8 != 0) {
        return xq_kernels_generic.transpose_f16(k, ldk, dim, out);
    }
    for (int t = 0; t < XQ_TILE; t += 8) {
        for (int i = 0; i < dim; i += 8) {
            __m256 in[8];
            for (int r = 0; r < 8; ++r) {
                in[r] = load8_f16(k + (t + r)*ldk + i);
            }
            transpose8(in, out + i*XQ_LANES + t, XQ_LANES);
        }
    }
}

// Butterflies: within registers up to a distance of 4, between registers above.
void rotate(float * x, int n, int block) {
    if (block % 8 != 0) {
        return xq_ref_rotate(x, n, block);
    }
    const __m256 norm = _mm256_set1_ps(1.0f / std::sqrt((float) block));
    const __m256 odd1 = _mm256_setr_ps(0, -0.0f, 0, -0.0f, 0, -0.0f, 0, -0.0f), odd2 = _mm256_setr_ps(0, 0, -0.0f, -0.0f, 0, 0, -0.0f, -0.0f);
    const __m256 odd4 = _mm256_setr_ps(0, 0, 0, 0, -0.0f, -0.0f, -0.0f, -0.0f);
    const int regs = block/8;
    for (float * b = x; b < x + n; b += block) {
        __m256 v[8];
        for (int r = 0; r < regs; ++r) {
            __m256 a = _mm256_loadu_ps(b + 8*r);
            a = _mm256_add_ps(_mm256_xor_ps(a, odd1), _mm256_permute_ps(a, 0xB1));          // neighbours
            a = _mm256_add_ps(_mm256_xor_ps(a, odd2), _mm256_permute_ps(a, 0x4E));          // pairs
            a = _mm256_add_ps(_mm256_xor_ps(a, odd4), _mm256_permute2f128_ps(a, a, 0x01));  // halves
            v[r] = a;
        }
        for (int h = 1; h < regs; h *= 2) {
            for (int i = 0; i < regs; i += 2*h) {
                for (int j = i; j < i + h; ++j) {
                    const __m256 u = v[j], w = v[j + h];
                    v[j]     = _mm256_add_ps(u, w);
                    v[j + h] = _mm256_sub_ps(u, w);
                }
            }
        }
        for (int r = 0; r < regs; ++r) {
            _mm256_storeu_ps(b + 8*r, _mm256_mul_ps(v[r], norm));
        }
    }
}

float softmax(float * s, int n, float * sum) {
    const __m256 none = _mm256_set1_ps(-std::numeric_limits<float>::infinity());
    __m256 most[4] = {none, none, none, none}, total = _mm256_setzero_ps();
    for (int i = 0; i < n; i += 32) {
        xq_each<4>([&](auto j) XQ_INLINE { most[j] = _mm256_max_ps(_mm256_loadu_ps(s + i + 8*j), most[j]); }); // of a NaN and another the other
    }
    const float top = hmax(_mm256_max_ps(_mm256_max_ps(most[0], most[1]), _mm256_max_ps(most[2], most[3])));
    if (!(top > -std::numeric_limits<float>::infinity())) {
        return xq_softmax_of_none(s, n, sum);
    }
    for (int i = 0; i < n; i += 8) {
        const __m256 v = _mm256_loadu_ps(s + i);
        const __m256 p = _mm256_andnot_ps(_mm256_cmp_ps(v, none, _CMP_EQ_OQ), exp8(_mm256_sub_ps(v, _mm256_set1_ps(top))));
        _mm256_storeu_ps(s + i, p);
        total = _mm256_add_ps(total, p);
    }
    *sum = hsum(total);
    return top;
}

bool finite(const float * x, int n) {
    const __m256 none = _mm256_setzero_ps();
    __m256 sum[2] = {none, none}; // 0 times what is not finite is a NaN
    for (int i = 0; i < n; i += 16) {
        sum[0] = _mm256_fmadd_ps(none, _mm256_loadu_ps(x + i), sum[0]);
        sum[1] = _mm256_fmadd_ps(none, _mm256_loadu_ps(x + i + 8), sum[1]);
    }
    const __m256 all = _mm256_add_ps(sum[0], sum[1]);
    return _mm256_movemask_ps(_mm256_cmp_ps(all, all, _CMP_UNORD_Q)) == 0;
}

void key_scores(const xq_side & side, const xq_sealed_tiles & tiles, const float * q, int ldq, int n, float * s, int lds, uint64_t * coarse) {
    if (has_key_strips(side)) {
        return scores_of_strips(side, tiles, q, ldq, n, s, lds, coarse);
    }
    xq_key_scores(xq_kernels_avx2, side, tiles, q, ldq, n, s, lds, coarse);
}

} // namespace

const xq_cpu_kernels xq_kernels_avx2 = {
    "avx2", supported, read_meta, scale_row, order_row, mac, key_scores, xq_avx2_add_values, xq_avx2_seal_strip, xq_avx2_seal_unbiased, unpack_strip,
    gemm32, gemm32_f16, transpose_f16, rotate, softmax, finite,
};
