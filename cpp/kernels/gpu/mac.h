// acc[row of queries] += multipliers . codes, where a lane reads words of its own and all lanes share multipliers.
//
// (word >> k) & mask holds fields k, k+n, k+2n, k+3n of a word, n to a byte, one in each byte: four codes that meet a
// quad of multipliers. Quads are read by all lanes at once, which shared memory serves in one go.
#pragma once

#include "kernels/gpu/strip.h"

// Where the multiplier of a field lies.
struct xqg_slot { int quad, byte; };
XQ_BODY xqg_slot xqg_slot_of(int place, int bits) {
    const int n = 8/bits, field = place & (32/bits - 1);
    xqg_slot s;
    s.quad = xq_code_word(place, bits)*n + (field & (n - 1));
    s.byte = field/n;
    return s;
}

template <int BITS, int ROWS>
XQ_BODY void xqg_mac_bits(XQ_GLOBAL const uint32_t * codes, int words, XQ_SHARED const xqg_quad * quads, XQ_LOCAL xqg_sum * sum) {
    const int n = 8/BITS;
    const uint32_t mask = ((1u << BITS) - 1u) * 0x01010101u;
    XQG_UNROLL_WORDS // so that several loads are under way; fewer where many rows take the registers
    for (int w = 0; w < words; ++w) {
        const uint32_t word = codes[w*XQ_LANES];
        XQG_UNROLL
        for (int k = 0; k < n; ++k) {
            const uint32_t four = word >> k*BITS & mask;
            XQG_UNROLL
            for (int r = 0; r < ROWS; ++r) {
                xqg_mac4(sum[r], four, quads + (w*n + k)*ROWS + r);
            }
        }
    }
}

// acc[r] += factor * step[r] * (multipliers of r . codes of the segment); quads are those of the strip.
template <int ROWS>
XQ_BODY void xqg_mac(XQ_GLOBAL const uint32_t * codes, xqg_segment s, XQ_SHARED const xqg_quad * quads, float factor,
                     XQ_LOCAL const float * step, XQ_LOCAL float * acc, int lane) {
    XQ_GLOBAL const uint32_t * words = codes + s.first*XQ_LANES + lane;
    XQ_SHARED const xqg_quad * m = quads + s.quad*ROWS;
    xqg_sum sum[ROWS];
    XQG_UNROLL
    for (int r = 0; r < ROWS; ++r) {
        xqg_reset(sum[r]);
    }
    switch (s.bits) {
        case 1: xqg_mac_bits<1, ROWS>(words, s.words, m, sum); break;
        case 2: xqg_mac_bits<2, ROWS>(words, s.words, m, sum); break;
        case 4: xqg_mac_bits<4, ROWS>(words, s.words, m, sum); break;
        case 8: xqg_mac_bits<8, ROWS>(words, s.words, m, sum); break;
    }
    XQG_UNROLL
    for (int r = 0; r < ROWS; ++r) {
        acc[r] += xqg_total(sum[r]) * (factor*step[r]);
    }
}
