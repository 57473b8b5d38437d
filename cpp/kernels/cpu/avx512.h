// What avx512*.cpp have for themselves; dispatch.cpp puts it beside avx2's other primitives. Nothing of
// them may run, not even an initialiser, before the processor has been asked.
#pragma once

#include "kernels/cpu/kernels.h"

uint64_t xq_avx512_key_scores(const xq_side & side, const uint32_t * codes, const uint8_t * meta, const float * q, int ldq, int n,
                              float * s, int lds);
void xq_avx512_add_values(const xq_side & side, const xq_value_tiles & tiles, const float * p, int ldp, int n, float * o, int ldo);
float xq_avx512_softmax(float * s, int n, float * sum);
