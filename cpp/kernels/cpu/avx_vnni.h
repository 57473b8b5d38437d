// What avx_vnni.cpp has for itself; dispatch.cpp puts it beside avx2's other primitives. Nothing of it may run, not even an
// initialiser, before the processor has been asked.
#pragma once

#include "kernels/cpu/kernels.h"

void xq_avx_vnni_mac(int bits, int rows, const uint32_t * codes, const float * m, int m_stride, int n, float * acc, int ldc);
// As key_scores; false and nothing done for sides that have no such form.
bool xq_avx_vnni_key_scores(const xq_side & side, const xq_sealed_tiles & tiles, const float * q, int ldq, int n, float * s, int lds, uint64_t * coarse);
void xq_avx_vnni_add_values(const xq_side & side, const xq_sealed_tiles & tiles, const float * p, int ldp, int n, float * o, int ldo);
