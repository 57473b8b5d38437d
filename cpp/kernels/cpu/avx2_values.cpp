#include "kernels/cpu/avx2_values.h"

void xq_avx2_add_values(const xq_side & side, const xq_sealed_tiles & tiles, const float * p, int ldp, int n, float * o, int ldo) {
    avx2_values::add_values(side, tiles, p, ldp, n, o, ldo);
}
