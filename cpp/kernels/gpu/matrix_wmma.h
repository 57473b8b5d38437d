// Products of 16 x 16 matrices on CUDA's tensor cores, by way of wmma: registers' layouts differ between architectures
// and are nowhere used.
#pragma once

#include <mma.h>

struct xqg_matrix { nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, float> f; };
struct xqg_half_matrix { nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, 16, 16, 16, half, nvcuda::wmma::row_major> f; };

XQ_BODY void xqg_matrix_clear(xqg_matrix & m) { nvcuda::wmma::fill_fragment(m.f, 0.0f); }
XQ_BODY void xqg_matrix_load(xqg_matrix & m, const float * from, int ld) {
    nvcuda::wmma::load_matrix_sync(m.f, from, ld, nvcuda::wmma::mem_row_major);
}
XQ_BODY void xqg_matrix_store(const xqg_matrix & m, float * to, int ld) {
    nvcuda::wmma::store_matrix_sync(to, m.f, ld, nvcuda::wmma::mem_row_major);
}
XQ_BODY void xqg_matrix_rows(xqg_half_matrix & m, const uint16_t * from, int ld) {
    nvcuda::wmma::load_matrix_sync(m.f, (const half *) from, ld);
}
XQ_BODY void xqg_matrix_add(xqg_matrix & sum, const xqg_half_matrix & rows, const uint16_t * columns, int ld) {
    nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, 16, 16, 16, half, nvcuda::wmma::row_major> b;
    nvcuda::wmma::load_matrix_sync(b, (const half *) columns, ld);
    nvcuda::wmma::mma_sync(sum.f, rows.f, b, sum.f);
}
