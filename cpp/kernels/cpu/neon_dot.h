// The product that neon_dot.cpp has for itself; neon.cpp puts it beside its other primitives. Nothing of
// neon_dot.cpp may run, not even an initialiser, before the processor has been asked.
#pragma once

#include <cstdint>

void xq_neon_dot_mac(int bits, int rows, const uint32_t * codes, const float * m, int m_stride, int n, float * acc, int ldc);
