// Portable implementation: plain loops over 32 lanes that compilers vectorise well.
#include "kernels/cpu/by_mac.h"

#include "reference/reference.h"

#include "ggml.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace {

bool supported() { return true; }

float f16(uint16_t x) { return ggml_fp16_to_fp32(x); }

float scale_row(const float * x, const float * scale, const float * zero, int rows, float * m, float * top) {
    float sum = 0.0f;
    *top = 0.0f;
    for (int i = 0; i < rows; ++i) {
        m[i] = x[i]*scale[i];
        sum += x[i]*zero[i];
        *top = std::max(*top, std::fabs(m[i]));
    }
    std::fill(m + rows, m + ((rows + 31) & ~31), 0.0f);
    return sum;
}

float order_row(const xq_segments & segments, const float * m, float * out) {
    float most = 0.0f;
    for (int k = 0; k < segments.n; ++k) {
        const auto & seg = segments.list[k];
        float top = 0.0f;
        for (int j = seg.at; j < seg.at + seg.rows; ++j) {
            out[j] = m[segments.order[j]];
            top = std::max(top, std::fabs(out[j]));
        }
        std::fill(out + seg.at + seg.rows, out + seg.at + ((seg.rows + 31) & ~31), 0.0f);
        most = std::max(most, top*(float) xq_code_max(seg.bits));
    }
    return most;
}

void mac(int bits, int rows, const uint32_t * codes, const float * m, int m_stride, int n, float * acc, int ldc) {
    int shift = 0;
    for (int p = 0; p < xq_n_planes(bits); ++p) {
        const int   b      = xq_plane_bits(bits, p);
        const float weight = (float) (1 << shift);
        for (int i = 0; i < rows; ++i) {
            const uint32_t * word = codes + xq_code_word(i, b)*XQ_LANES;
            float lane[XQ_LANES];
            for (int l = 0; l < XQ_LANES; ++l) {
                lane[l] = (float) (int) xq_code_get(word[l], i, b);
            }
            for (int j = 0; j < n; ++j) {
                const float mi = m[(size_t) j*m_stride + i] * weight;
                for (int l = 0; l < XQ_LANES; ++l) {
                    acc[(size_t) j*ldc + l] += mi * lane[l];
                }
            }
        }
        codes += xq_plane_words(rows, b) * XQ_LANES;
        shift += b;
    }
}

void unpack_strip(const xq_side & side, const uint32_t * codes, const uint8_t * meta, float * out) {
    if (side.meta == XQ_META_RANKED) {
        return xq_ref_unpack_strip(side, codes, meta, out);
    }
    float scale[XQ_MAX_ROWS], zero[XQ_MAX_ROWS];
    xq_ref_read_meta(side, meta, scale, zero);
    const int b0 = xq_plane_bits(side.bits, 0);
    const uint32_t * high = codes + xq_plane_words(side.rows, b0)*XQ_LANES;
    for (int i = 0; i < side.rows; ++i) {
        const uint32_t * w0 = codes + xq_code_word(i, b0)*XQ_LANES;
        const uint32_t * w1 = high  + xq_code_word(i, 1)*XQ_LANES;
        for (int l = 0; l < XQ_LANES; ++l) {
            uint32_t c = xq_code_get(w0[l], i, b0);
            if (side.bits == 3) {
                c |= xq_code_get(w1[l], i, 1) << 2;
            }
            out[i*XQ_LANES + l] = zero[i] + scale[i] * (float) (int) c;
        }
    }
}

void gemm32(const float * a, int lda, int n, const float * b, int rows, float * c, int ldc) {
    for (int j = 0; j < n; ++j) {
        float acc[XQ_LANES] = {0};
        for (int i = 0; i < rows; ++i) {
            const float ai = a[(size_t) j*lda + i];
            for (int l = 0; l < XQ_LANES; ++l) {
                acc[l] += ai * b[i*XQ_LANES + l];
            }
        }
        for (int l = 0; l < XQ_LANES; ++l) {
            c[(size_t) j*ldc + l] += acc[l];
        }
    }
}

void gemm32_f16(const float * a, int lda, int n, const uint16_t * b, size_t ldb, int rows, int lanes,
                float * c, int ldc) {
    float row[XQ_LANES];
    for (int i = 0; i < rows; ++i) {
        for (int l = 0; l < lanes; ++l) {
            row[l] = f16(b[i*ldb + l]);
        }
        for (int j = 0; j < n; ++j) {
            const float ai = a[(size_t) j*lda + i];
            for (int l = 0; l < lanes; ++l) {
                c[(size_t) j*ldc + l] += ai * row[l];
            }
        }
    }
}

void transpose_f16(const uint16_t * k, size_t ldk, int dim, float * out) {
    for (int i = 0; i < dim; ++i) {
        for (int t = 0; t < XQ_TILE; ++t) {
            out[i*XQ_LANES + t] = f16(k[t*ldk + i]);
        }
    }
}

float softmax(float * s, int n, float * sum) {
    float top = -std::numeric_limits<float>::infinity();
    for (int i = 0; i < n; ++i) {
        top = s[i] > top ? s[i] : top;
    }
    if (!(top > -std::numeric_limits<float>::infinity())) {
        return xq_softmax_of_none(s, n, sum);
    }
    *sum = 0.0f;
    for (int i = 0; i < n; ++i) {
        s[i] = std::exp(s[i] - top);
        *sum += s[i];
    }
    return top;
}

bool finite(const float * x, int n) {
    uint32_t bad = 0; // a bit that only the exponent of infinities and NaNs carries into
    for (int i = 0; i < n; ++i) {
        bad |= (xq_float_bits(x[i]) & 0x7F800000u) + 0x00800000u;
    }
    return bad >> 31 == 0;
}

void key_scores(const xq_side & side, const xq_sealed_tiles & tiles, const float * q, int ldq, int n, float * s, int lds, uint64_t * coarse) {
    xq_key_scores(xq_kernels_generic, side, tiles, q, ldq, n, s, lds, coarse);
}

void add_values(const xq_side & side, const xq_sealed_tiles & tiles, const float * p, int ldp, int n, float * o, int ldo) {
    xq_add_values(xq_kernels_generic, side, tiles, p, ldp, n, o, ldo);
}

} // namespace

float xq_softmax_of_none(float * s, int n, float * sum) {
    *sum = 0.0f;
    for (int i = 0; i < n; ++i) {
        *sum = s[i] == s[i] ? *sum : s[i]; // a NaN
        s[i] = 0.0f;
    }
    return -std::numeric_limits<float>::infinity();
}

const xq_cpu_kernels xq_kernels_generic = {
    "generic", supported, xq_ref_read_meta, scale_row, order_row, mac, key_scores, add_values, xq_ref_seal_strip, xq_ref_seal_unbiased, unpack_strip,
    gemm32, gemm32_f16, transpose_f16, xq_ref_rotate, softmax, finite,
};
