// key_scores and add_values out of an implementation's own read_meta, scale_row, order_row and mac.
#pragma once

#include "kernels/cpu/kernels.h"

uint64_t xq_key_scores(const xq_cpu_kernels & kern, const xq_side & side, const uint32_t * codes, const uint8_t * meta,
                       const float * q, int ldq, int n, float * s, int lds);

void xq_add_values(const xq_cpu_kernels & kern, const xq_side & side, const xq_value_tiles & tiles, const float * p, int ldp, int n,
                   float * o, int ldo);
