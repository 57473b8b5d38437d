// What avx512*.cpp have for themselves; dispatch.cpp puts it beside avx2's other primitives. Nothing of
// them may run, not even an initialiser, before the processor has been asked.
#pragma once

#include "kernels/cpu/kernels.h"

void xq_avx512_key_scores(const xq_side & side, const xq_sealed_tiles & tiles, const float * q, int ldq, int n, float * s, int lds, uint64_t * coarse);
void xq_avx512_add_values(const xq_side & side, const xq_sealed_tiles & tiles, const float * p, int ldp, int n, float * o, int ldo);
float xq_avx512_softmax(float * s, int n, float * sum);
bool xq_avx512_finite(const float * x, int n);
void xq_avx512_gemm32(const float * a, int lda, int n, const float * b, int rows, float * c, int ldc);
void xq_avx512_gemm32_f16(const float * a, int lda, int n, const uint16_t * b, size_t ldb, int rows, int lanes, float * c, int ldc);
void xq_avx512_transpose_f16(const uint16_t * k, size_t ldk, int dim, float * out);
