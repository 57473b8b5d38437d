// Products of 16 x 16 matrices on Apple's GPUs: four of 8 x 8.
#pragma once

struct xqg_matrix { simdgroup_float8x8 of[4]; };
struct xqg_half_matrix { simdgroup_half8x8 of[4]; };

XQ_BODY void xqg_matrix_clear(thread xqg_matrix & m) {
    XQG_UNROLL
    for (int i = 0; i < 4; ++i) {
        m.of[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    }
}
XQ_BODY void xqg_matrix_load(thread xqg_matrix & m, threadgroup const float * from, int ld) {
    XQG_UNROLL
    for (int i = 0; i < 4; ++i) {
        simdgroup_load(m.of[i], from + 8*(i/2)*ld + 8*(i % 2), (ulong) ld);
    }
}
XQ_BODY void xqg_matrix_store(thread const xqg_matrix & m, threadgroup float * to, int ld) {
    XQG_UNROLL
    for (int i = 0; i < 4; ++i) {
        simdgroup_store(m.of[i], to + 8*(i/2)*ld + 8*(i % 2), (ulong) ld);
    }
}
XQ_BODY void xqg_matrix_rows(thread xqg_half_matrix & m, threadgroup const uint16_t * from, int ld) {
    XQG_UNROLL
    for (int i = 0; i < 4; ++i) {
        simdgroup_load(m.of[i], (threadgroup const half *) from + 8*(i/2)*ld + 8*(i % 2), (ulong) ld);
    }
}
XQ_BODY void xqg_matrix_add(thread xqg_matrix & sum, thread const xqg_half_matrix & rows, threadgroup const uint16_t * columns, int ld) {
    xqg_half_matrix b;
    xqg_matrix_rows(b, columns, ld);
    XQG_UNROLL
    for (int i = 0; i < 4; ++i) {
        simdgroup_multiply_accumulate(sum.of[i], rows.of[i/2*2], b.of[i % 2], sum.of[i]);
        simdgroup_multiply_accumulate(sum.of[i], rows.of[i/2*2 + 1], b.of[2 + i % 2], sum.of[i]);
    }
}
