// The primitives of packed attention on the CPU. One algorithm (attend.cpp, seal.cpp) drives them; each
// implementation supplies them for its instruction set, and all are tested on the same bytes.
//
// Both attention products are the same 32-lane product  C[n][32] += A[n][rows] * B[rows][32]:
//   scores   A = queries (rows = channels)      B = a key strip   (lanes = tokens)
//   outputs  A = softmax weights (rows = tokens) B = a value strip (lanes = channels)
#pragma once

#include "format/xq_format.h"

#include <cstddef>
#include <cstdint>

constexpr int XQ_MAX_HEAD_DIM = 256;  // rows of the longest strip

struct xq_cpu_kernels {
    const char * name;
    bool (*supported)();

    // Scale and zero point of every row; scale and zero have room for rows rounded up to 8.
    void (*read_meta)(const xq_side & side, const uint8_t * meta, float * scale, float * zero);

    // m[i] = x[i]*scale[i], zeros up to rows rounded up to 32; *top = largest |m|; returns sum_i x[i]*zero[i].
    float (*scale_row)(const float * x, const float * scale, const float * zero, int rows, float * m, float * top);

    // acc[j][32] (stride ldc) += sum_i m[j][i] * code[i][32], n rows of multipliers as scale_row leaves them
    // (stride m_stride). Codes stay packed. A row's result does not depend on the other rows.
    void (*mac)(int bits, int rows, const uint32_t * codes, const float * m, int m_stride, int n, float * acc, int ldc);

    // Quantise a strip: contract of xq_ref_seal_strip (reference.h), codes bit-exact.
    void (*seal_strip)(const xq_side & side, const float * x, const uint8_t * row_ok, uint32_t lane_mask,
                       uint32_t * codes, bool leader, uint8_t * meta);

    // Dequantise a strip to out [rows][32].
    void (*unpack_strip)(const xq_side & side, const uint32_t * codes, const uint8_t * meta, float * out);

    // c[n][32] (stride ldc) += a[n][rows] (stride lda) * b[rows][32]
    void (*gemm32)(const float * a, int lda, int n, const float * b, int rows, float * c, int ldc);

    // As gemm32 with b in f16, stride ldb elements, `lanes` of 32 valid.
    void (*gemm32_f16)(const float * a, int lda, int n, const uint16_t * b, size_t ldb, int rows, int lanes,
                       float * c, int ldc);

    // out[i][32] = k[t][i]: 32 f16 rows to a key strip in f32.
    void (*transpose_f16)(const uint16_t * k, size_t ldk, int dim, float * out);

    // One online-softmax step over a tile: s becomes exp(s - new maximum), top and sum are updated; returns the
    // factor by which the output so far must be scaled. A tile of -inf leaves everything as it was.
    float (*softmax_tile)(float * s, float & top, float & sum);
};

extern const xq_cpu_kernels xq_kernels_generic;
#if defined(__x86_64__) || defined(_M_X64)
extern const xq_cpu_kernels xq_kernels_avx2;
#endif

// Implementations that run on this machine, best first; the generic one is always there.
int xq_cpu_list(const xq_cpu_kernels ** out, int max);

// The implementation in use: the best one, or the one that the environment variable XQUANT_CPU names.
const xq_cpu_kernels & xq_cpu();
