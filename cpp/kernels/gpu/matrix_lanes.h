// Products of 16 x 16 matrices where a device has no units for them: a lane holds half a row of a result, in another order
// than the body has its rows, and no lane waits for another. So on the emulator a sync that the body forgot shows.
#pragma once

struct xqg_matrix { float x[8]; };       // row lane % 16, columns from 8*(lane/16)
struct xqg_half_matrix { float x[16]; }; // row lane % 16

XQ_BODY int xqg_matrix_at(int ld, int lane) { return lane % 16*ld + lane/16*8; }

XQ_BODY void xqg_matrix_clear(XQ_LOCAL xqg_matrix & m) {
    for (int i = 0; i < 8; ++i) {
        m.x[i] = 0.0f;
    }
}
XQ_BODY void xqg_matrix_load(XQ_LOCAL xqg_matrix & m, XQ_SHARED const float * from, int ld) {
    for (int i = 0; i < 8; ++i) {
        m.x[i] = from[xqg_matrix_at(ld, xqg_lane()) + i];
    }
}
XQ_BODY void xqg_matrix_store(XQ_LOCAL const xqg_matrix & m, XQ_SHARED float * to, int ld) {
    for (int i = 0; i < 8; ++i) {
        to[xqg_matrix_at(ld, xqg_lane()) + i] = m.x[i];
    }
}
XQ_BODY void xqg_matrix_rows(XQ_LOCAL xqg_half_matrix & m, XQ_SHARED const uint16_t * from, int ld) {
    for (int i = 0; i < 16; ++i) {
        m.x[i] = xqg_half(from[xqg_lane() % 16*ld + i]);
    }
}
XQ_BODY void xqg_matrix_add(XQ_LOCAL xqg_matrix & sum, XQ_LOCAL const xqg_half_matrix & rows, XQ_SHARED const uint16_t * columns, int ld) {
    for (int k = 0; k < 16; ++k) {
        for (int i = 0; i < 8; ++i) {
            sum.x[i] = xqg_fma(rows.x[k], xqg_half(columns[k*ld + xqg_lane()/16*8 + i]), sum.x[i]);
        }
    }
}
