// AVX2 with VNNI in its short encoding (Alder Lake, Zen 5 and later): products in one instruction for two or three.
#include "kernels/cpu/avx_vnni.h"

#define XQ_AVX_VNNI 1
#include "kernels/cpu/avx2_mac.h"
#include "kernels/cpu/avx2_values.h"

void xq_avx_vnni_mac(int bits, int rows, const uint32_t * codes, const float * m, int m_stride, int n, float * acc, int ldc) {
    mac(bits, rows, codes, m, m_stride, n, acc, ldc);
}

void xq_avx_vnni_add_values(const xq_side & side, const xq_sealed_tiles & tiles, const float * p, int ldp, int n, float * o, int ldo) {
    avx2_values::add_values(side, tiles, p, ldp, n, o, ldo);
}
