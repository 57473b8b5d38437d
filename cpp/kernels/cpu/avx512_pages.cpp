// Pages in AVX-512: products of f32 and f16, and keys turned to lanes of tokens. Every lane adds up in avx2.cpp's order, so the
// bits are the same.
#include "kernels/cpu/avx512.h"
#include "kernels/cpu/avx512_bytes.h"

#include <algorithm>

using namespace xq_avx512;

namespace {

__m512 load16_f16(const uint16_t * p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) p)); }
__m512 load16(const float * p)    { return _mm512_loadu_ps(p); }
__m512 load16(const uint16_t * p) { return load16_f16(p); }

// c[NR][32] += a[NR][rows] * b[rows][32], b in f32 or f16.
template <int NR, class B> void gemm(const float * a, int lda, const B * b, size_t ldb, int rows, float * c, int ldc) {
    __m512 acc[NR][2];
    xq_each<NR>([&](auto r) XQ_INLINE {
        acc[r][0] = load16(c + (size_t) r*ldc);
        acc[r][1] = load16(c + (size_t) r*ldc + 16);
    });
    for (int i = 0; i < rows; ++i, b += ldb) {
        const __m512 b0 = load16(b), b1 = load16(b + 16);
        xq_each<NR>([&](auto r) XQ_INLINE {
            const __m512 x = _mm512_set1_ps(a[(size_t) r*lda + i]);
            acc[r][0] = _mm512_fmadd_ps(x, b0, acc[r][0]);
            acc[r][1] = _mm512_fmadd_ps(x, b1, acc[r][1]);
        });
    }
    xq_each<NR>([&](auto r) XQ_INLINE {
        _mm512_storeu_ps(c + (size_t) r*ldc, acc[r][0]);
        _mm512_storeu_ps(c + (size_t) r*ldc + 16, acc[r][1]);
    });
}

template <class B> void gemm(const float * a, int lda, int n, const B * b, size_t ldb, int rows, float * c, int ldc) {
    constexpr int MOST = 8; // rows whose sums stay in registers
    for (; n > 0; n -= MOST, a += MOST*(size_t) lda, c += MOST*(size_t) ldc) {
        switch (std::min(n, MOST)) {
            case 1:  gemm<1>(a, lda, b, ldb, rows, c, ldc); break;
            case 2:  gemm<2>(a, lda, b, ldb, rows, c, ldc); break;
            case 3:  gemm<3>(a, lda, b, ldb, rows, c, ldc); break;
            case 4:  gemm<4>(a, lda, b, ldb, rows, c, ldc); break;
            case 5:  gemm<5>(a, lda, b, ldb, rows, c, ldc); break;
            case 6:  gemm<6>(a, lda, b, ldb, rows, c, ldc); break;
            case 7:  gemm<7>(a, lda, b, ldb, rows, c, ldc); break;
            default: gemm<8>(a, lda, b, ldb, rows, c, ldc); break;
        }
    }
}

// 16 vectors to their columns, `ldo` apart.
void transpose16(__m512 * v, float * out, int ldo) {
    __m512 t[16];
    xq_each<8>([&](auto i) XQ_INLINE { // neighbours
        t[2*i]     = _mm512_unpacklo_ps(v[2*i], v[2*i + 1]);
        t[2*i + 1] = _mm512_unpackhi_ps(v[2*i], v[2*i + 1]);
    });
    xq_each<4>([&](auto i) XQ_INLINE { // pairs: v[4*i + c] has column c of every quarter of rows 4*i ... 4*i + 3
        v[4*i]     = _mm512_shuffle_ps(t[4*i],     t[4*i + 2], 0x44);
        v[4*i + 1] = _mm512_shuffle_ps(t[4*i],     t[4*i + 2], 0xEE);
        v[4*i + 2] = _mm512_shuffle_ps(t[4*i + 1], t[4*i + 3], 0x44);
        v[4*i + 3] = _mm512_shuffle_ps(t[4*i + 1], t[4*i + 3], 0xEE);
    });
    xq_each<4>([&](auto c) XQ_INLINE { // quarters
        const __m512 a = _mm512_shuffle_f32x4(v[c], v[4 + c], 0x88), b = _mm512_shuffle_f32x4(v[c], v[4 + c], 0xDD);
        const __m512 d = _mm512_shuffle_f32x4(v[8 + c], v[12 + c], 0x88), e = _mm512_shuffle_f32x4(v[8 + c], v[12 + c], 0xDD);
        _mm512_storeu_ps(out + (size_t) c*ldo,        _mm512_shuffle_f32x4(a, d, 0x88));
        _mm512_storeu_ps(out + (size_t) (c + 4)*ldo,  _mm512_shuffle_f32x4(b, e, 0x88));
        _mm512_storeu_ps(out + (size_t) (c + 8)*ldo,  _mm512_shuffle_f32x4(a, d, 0xDD));
        _mm512_storeu_ps(out + (size_t) (c + 12)*ldo, _mm512_shuffle_f32x4(b, e, 0xDD));
    });
}

} // namespace

void xq_avx512_gemm32(const float * a, int lda, int n, const float * b, int rows, float * c, int ldc) {
    gemm(a, lda, n, b, XQ_LANES, rows, c, ldc);
}

void xq_avx512_gemm32_f16(const float * a, int lda, int n, const uint16_t * b, size_t ldb, int rows, int lanes, float * c, int ldc) {
    if (lanes != XQ_LANES) {
        return xq_kernels_avx2.gemm32_f16(a, lda, n, b, ldb, rows, lanes, c, ldc);
    }
    gemm(a, lda, n, b, ldb, rows, c, ldc);
}

void xq_avx512_transpose_f16(const uint16_t * k, size_t ldk, int dim, float * out) {
    if (dim % 16 != 0) {
        return xq_kernels_avx2.transpose_f16(k, ldk, dim, out);
    }
    for (int t = 0; t < XQ_TILE; t += 16) {
        for (int i = 0; i < dim; i += 16) {
            __m512 v[16];
            xq_each<16>([&](auto r) XQ_INLINE { v[r] = load16_f16(k + (t + r)*ldk + i); });
            transpose16(v, out + i*XQ_LANES + t, XQ_LANES);
        }
    }
}
