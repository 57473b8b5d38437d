// Armv8.2 with dot products (Cortex-A55, A75, Neoverse N1, Apple A11 and later).
#include "kernels/cpu/neon_dot.h"

#define XQ_NEON_DOT 1
#include "kernels/cpu/neon_mac.h"

void xq_neon_dot_mac(int bits, int rows, const uint32_t * codes, const float * m, int m_stride, int n, float * acc, int ldc) {
    mac_of(bits, rows, codes, m, m_stride, n, acc, ldc);
}
