// Sealing a ranked strip whose lanes all hold data, for an implementation's own 32-lane row.
//
//   Row    constructed from 32 floats; lowest(), highest(), sum() in the order of xq_unbiased.h
//   put    (row, base, inv, bits, class words, place): ors the row's codes, (x - base)*inv rounded, into its class
#pragma once

#include "format/xq_ranked.h"
#include "kernels/cpu/kernels.h"
#include "reference/reference.h"

#include <cstring>

template <class Row, class Put> void xq_seal_ranked(const xq_side & side, const float * x, uint32_t * codes, uint8_t * meta, Put put) {
    float lo[XQ_MAX_ROWS], hi[XQ_MAX_ROWS], range[XQ_MAX_ROWS], mean[XQ_MAX_ROWS];
    float base[XQ_MAX_ROWS], inv[XQ_MAX_ROWS];
    uint8_t cls[XQ_MAX_ROWS];
    float all = 0.0f;
    for (int i = 0; i < side.rows; ++i) {
        const Row row(x + (size_t) i*XQ_LANES);
        lo[i] = row.lowest();
        hi[i] = row.highest();
        const float sum = row.sum();
        range[i] = hi[i] - lo[i];
        mean[i]  = sum / (float) XQ_LANES;
        all += sum;
    }
    if (!xq_is_finite(all)) { // numbers of pages are f16: their sum is finite if they are
        return xq_ref_seal_strip(side, x, nullptr, 0xFFFFFFFFu, codes, false, meta);
    }
    xq_ref_rank(side, range, cls);
    xq_ref_write_ranked(side, cls, lo, hi, mean, meta, base, inv);
    int first[XQ_CLASSES + 1], at[XQ_CLASSES] = {0};
    xq_ref_class_words(side, cls, first);
    std::memset(codes, 0, sizeof(uint32_t) * xq_side_words(side));
    for (int i = 0; i < side.rows; ++i) {
        const int bits = xq_class_bits(cls[i], xq_fine(side)), place = at[cls[i]]++;
        if (bits > 0) {
            put(Row(x + (size_t) i*XQ_LANES), base[i], inv[i], bits, codes + (size_t) first[cls[i]]*XQ_LANES, place);
        }
    }
}
