// AVX2 with VNNI in its short encoding (Alder Lake, Zen 5 and later): products in one instruction for two or three.
#include "kernels/cpu/avx_vnni.h"

#define XQ_AVX_VNNI 1
#include "kernels/cpu/avx2_keys.h"
#include "kernels/cpu/avx2_values.h"

void xq_avx_vnni_mac(int bits, int rows, const uint32_t * codes, const float * m, int m_stride, int n, float * acc, int ldc) {
    mac(bits, rows, codes, m, m_stride, n, acc, ldc);
}

bool xq_avx_vnni_key_scores(const xq_side & side, const xq_sealed_tiles & tiles, const float * q, int ldq, int n, float * s, int lds, uint64_t * coarse) {
    if (has_key_strips(side)) {
        scores_of_strips(side, tiles, q, ldq, n, s, lds, coarse);
        return true;
    }
    return false;
}

void xq_avx_vnni_add_values(const xq_side & side, const xq_sealed_tiles & tiles, const float * p, int ldp, int n, float * o, int ldo) {
    avx2_values::add_values(side, tiles, p, ldp, n, o, ldo);
}
