// key_scores and add_values out of an implementation's own read_meta, scale_row, order_row and mac.
#pragma once

#include "kernels/cpu/kernels.h"

void xq_key_scores(const xq_cpu_kernels & kern, const xq_side & side, const xq_sealed_tiles & tiles, const float * q, int ldq, int n,
                   float * s, int lds, uint64_t * coarse);

void xq_add_values(const xq_cpu_kernels & kern, const xq_side & side, const xq_sealed_tiles & tiles, const float * p, int ldp, int n,
                   float * o, int ldo);
