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
#include <string>

constexpr int   XQ_MOST_ROWS    = 64;   // query rows that key_scores takes
constexpr float XQ_MAX_SHARE    = 64.0f;

// Where the rows of a ranked strip lie: one segment for each width in use, its rows' multipliers at
// [at, at + rows) of a row that has been put in order, padded to a multiple of 32.
struct xq_segments {
    struct segment { int bits, rows, word, at; };
    int n, width;                                        // segments; multipliers in all
    segment list[4];
    uint8_t order[XQ_MAX_ROWS + 5*XQ_LANES]; // row of every multiplier, and room behind for whole writes
};

// From the classes in the metadata of a ranked strip.
void xq_read_segments(const xq_side & side, const uint8_t * meta, xq_segments & out);

// Tiles of a chunk, the unit of partial results: 256 cells, the step in which llama.cpp grows n_kv. Chunks are
// always summed apart and folded in order, so results depend neither on threads nor on the batch.
constexpr int XQ_CHUNK_TILES = 8;

// Sealed tiles of one chunk and head, in order: their keys or their values.
struct xq_sealed_tiles {
    int n = 0;
    const uint32_t * codes[XQ_CHUNK_TILES];
    const uint8_t  * meta[XQ_CHUNK_TILES];
    int at[XQ_CHUNK_TILES]; // where in a row of logits or weights the tile's 32 are
};

struct xq_cpu_kernels {
    const char * name;
    bool (*supported)();

    // Scale and zero point of every row; scale and zero have room for rows rounded up to 8.
    void (*read_meta)(const xq_side & side, const uint8_t * meta, float * scale, float * zero);

    // m[i] = x[i]*scale[i], zeros up to rows rounded up to 32; *top = largest |m|; returns sum_i x[i]*zero[i].
    float (*scale_row)(const float * x, const float * scale, const float * zero, int rows, float * m, float * top);

    // out[at + j] = m[order[at + j]], padded with zeros, for every segment; returns the largest |m| times the largest
    // code of its width.
    float (*order_row)(const xq_segments & segments, const float * m, float * out);

    // acc[j][32] (stride ldc) += sum_i m[j][i] * code[i][32], n rows of multipliers as scale_row leaves them
    // (stride m_stride). Codes stay packed; bits 1, 2, 3, 4 or 8. A row's result does not depend on the other rows.
    void (*mac)(int bits, int rows, const uint32_t * codes, const float * m, int m_stride, int n, float * acc, int ldc);

    // s[j][at ... at + 31] (stride lds) = q[j] . keys of one strip of every tile, n rows (at most XQ_MOST_ROWS, stride
    // ldq). Bit j of coarse[tile]: a channel's share of row j's logits exceeds XQ_MAX_SHARE, and integers would be too coarse; these
    // scores are left to the caller.
    void (*key_scores)(const xq_side & side, const xq_sealed_tiles & tiles, const float * q, int ldq, int n, float * s, int lds, uint64_t * coarse);

    // o[j] (stride ldo, strips*32 wide) += sum_t p[j][t] * value[t], of all strips and tiles, n rows.
    void (*add_values)(const xq_side & side, const xq_sealed_tiles & tiles, const float * p, int ldp, int n, float * o, int ldo);

    // Quantise a strip: contract of xq_ref_seal_strip (reference.h), codes bit-exact.
    void (*seal_strip)(const xq_side & side, const float * x, const uint8_t * row_ok, uint32_t lane_mask,
                       uint32_t * codes, bool leader, uint8_t * meta);

    // Quantise one or two value strips: contract of xq_ref_seal_unbiased, codes bit-exact.
    void (*seal_unbiased)(const xq_side & side, const float * x, int n, int lanes, const uint8_t * row_ok,
                          uint32_t * codes, uint8_t * meta);

    // Dequantise a strip to out [rows][32].
    void (*unpack_strip)(const xq_side & side, const uint32_t * codes, const uint8_t * meta, float * out);

    // c[n][32] (stride ldc) += a[n][rows] (stride lda) * b[rows][32]
    void (*gemm32)(const float * a, int lda, int n, const float * b, int rows, float * c, int ldc);

    // As gemm32 with b in f16, stride ldb elements, `lanes` of 32 valid.
    void (*gemm32_f16)(const float * a, int lda, int n, const uint16_t * b, size_t ldb, int rows, int lanes,
                       float * c, int ldc);

    // out[i][32] = k[t][i]: 32 f16 rows to a key strip in f32.
    void (*transpose_f16)(const uint16_t * k, size_t ldk, int dim, float * out);

    // Rotate n values in blocks of `block` (xq_rotate.h), in place.
    void (*rotate)(float * x, int n, int block);

    // s[i] becomes exp(s[i] - maximum), n a multiple of 32; *sum their sum; returns the maximum. All -inf: zeros, and
    // a sum of 0. A NaN stays one and makes the sum one, but is no maximum.
    float (*softmax)(float * s, int n, float * sum);

    // Whether x[0..n) are all finite, n a multiple of 32.
    bool (*finite)(const float * x, int n);
};

// What softmax makes of logits of which none is above -inf. Apart, so that the others need no registers saved.
float xq_softmax_of_none(float * s, int n, float * sum);

extern const xq_cpu_kernels xq_kernels_generic;
#if XQ_HAVE_AVX2
extern const xq_cpu_kernels xq_kernels_avx2;
#endif
#if XQ_HAVE_NEON
extern const xq_cpu_kernels xq_kernels_neon;
extern const xq_cpu_kernels xq_kernels_neon_dot; // with the products of neon_dot.cpp
#endif

// Implementations that run on this machine, best first; the generic one is always there.
int xq_cpu_list(const xq_cpu_kernels ** out, int max);

// The implementation in use: the best one, or the one that the environment variable XQUANT_CPU names.
const xq_cpu_kernels & xq_cpu();

// Why XQUANT_CPU cannot be followed, or "": packed contexts are refused then, so that nothing runs that was not asked for.
const std::string & xq_cpu_refusal();
