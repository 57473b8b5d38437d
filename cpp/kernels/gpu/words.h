// Packing the codes of a strip row by row: a lane keeps its words under way in registers.
#pragma once

#include "kernels/gpu/strip.h"

// Appends a row's code to the words under way, and writes the words that it fills.
struct xqg_words { uint32_t low, high; };
XQ_BODY xqg_words xqg_append(xqg_words w, xq_side side, XQ_GLOBAL uint32_t * codes, int i, uint32_t code, int lane) {
    const int low_bits = xq_plane_bits(side.bits, 0);
    w.low  = xq_code_put(w.low, i, low_bits, code);
    w.high = xq_code_put(w.high, i, 1, code >> low_bits);
    if ((i + 1)*low_bits % 32 == 0 || i + 1 == side.rows) {
        codes[xq_code_word(i, low_bits)*XQ_LANES + lane] = w.low;
        w.low = 0;
    }
    if (side.bits == 3 && ((i + 1) % 32 == 0 || i + 1 == side.rows)) {
        codes[(xq_plane_words(side.rows, low_bits) + xq_code_word(i, 1))*XQ_LANES + lane] = w.high;
        w.high = 0;
    }
    return w;
}
