// Ranked key strips: channels with a wide range get more bits, at a fixed size of the strip.
//
// A key channel's error is proportional to its range within the tile, and ranges differ by orders of magnitude, so
// equal widths waste most of the bits. Here the W words of a lane are each given to one of four classes of rows:
//
//   class        0  1  2  3
//   coarse side  0  1  2  4 bits a row      (less than 4 bits a channel on average)
//   fine side    1  2  4  8 bits a row
//
// Rows are ranked by range (ties: lower row first) and fill class 3, 2, 1, 0 in that order. How many words each class
// gets is chosen tile by tile for the smallest sum of range^2 times the error of its width (XQ_ERROR_*).
//
// Codes: the classes' words lie one after the other, class 3 first; within a class, rows in ascending order are
// fields of its width as in xq_format.h; a class takes ceil(rows*bits/32) words a lane. Words left over are 0.
//
// Metadata: u16 lowest, u16 step of the scales' logarithmic grid (top 15)
//           f16 {lowest, step} of the midpoints' grid of class 0, 1, 2 and 3; zeros where a class has no rows
//           bit plane of the class's low bit, [rows/8] bytes; of its high bit
//           4-bit scale codes, even row in the low half of a byte; u8 midpoint codes
// A row of b bits is  mid + scale*(code - (2^b-1)/2);  its midpoint is half way between minimum and maximum, or the
// mean where b = 0. Every class has a midpoint grid of its own, because rows may lie far out (key biases): Qwen2.5,
// balanced, 1536 tokens of sherlock.txt: KL 0.0362 with one grid under 4 bits, 0.0272 with one a class, 0.0276 exact.
//
// Rows of 1 and 2 bits are coded between their own minimum and maximum and relaxed (xq_format.h). Rows of 4 and 8
// bits would lose more to a scale of 4 bits than to their codes: their scale is rounded up until it reaches the
// minimum and the maximum from the stored midpoint, and their codes are taken from stored scale and midpoint.
// (lossless, SmolLM2, 1536 tokens of Python documentation: KL 0.0063 without, 0.0045 with.)
#ifndef XQ_RANKED_H
#define XQ_RANKED_H

#include "format/xq_format.h"

#define XQ_CLASSES 4

// Mean square error of a row whose range is 1, by bits: a mean alone, relaxed 1 and 2 bits, plain 4 and 8 bits, for
// 32 normal samples. Only their ratios matter.
#define XQ_ERROR_0 0.0625f
#define XQ_ERROR_1 0.0227f
#define XQ_ERROR_2 0.0075f
#define XQ_ERROR_4 0.00037f
#define XQ_ERROR_8 0.0000013f

XQ_FN int xq_fine(xq_side s) { return 8*s.words >= s.rows ? 1 : 0; }
XQ_FN int xq_class_bits(int cls, int fine) { return (1 << (cls + fine)) >> 1; }
XQ_FN int xq_class_words(int rows, int bits) { return (rows*bits + 31) / 32; }

XQ_FN float xq_width_error(int bits) {
    return bits == 0 ? XQ_ERROR_0 : bits == 1 ? XQ_ERROR_1 : bits == 2 ? XQ_ERROR_2 : bits == 4 ? XQ_ERROR_4 : XQ_ERROR_8;
}

// Where a strip's metadata has the midpoint grid of a class, and behind the classes the scales and midpoints of rows.
XQ_FN int xq_ranked_grid_at(int cls)   { return 4 + 4*cls; }
XQ_FN int xq_ranked_scale_at(int rows) { return XQ_RANKED_HEAD + rows/4; }
XQ_FN int xq_ranked_mid_at(int rows)   { return XQ_RANKED_HEAD + rows/4 + rows/2; }

// Scale at which a row of 4 or 8 bits reaches lo and hi from its stored midpoint.
XQ_FN float xq_reach_scale(float lo, float hi, float mid, int bits) {
    const float up = hi - mid, down = mid - lo;
    return (up > down ? up : down) / (0.5f * (float) xq_code_max(bits));
}
// As xq_log_of and xq_log_code, rounded up.
XQ_FN int xq_log_above(float scale) { return (int) ((xq_float_bits(scale) + 0xFFFFu) >> 16); }
XQ_FN int xq_log_code_above(int log, int lowest, int step) { return 1 + (step > 0 ? (log - lowest + step - 1) / step : 0); }

#if !defined(__METAL_VERSION__) // pointers need an address space there: cpp/kernels/gpu has its own

// Class of a row.
XQ_FN int xq_ranked_class(const uint8_t * meta, int rows, int row) {
    const uint8_t * low = meta + XQ_RANKED_HEAD;
    const uint8_t * high = low + rows/8;
    return (low[row >> 3] >> (row & 7) & 1) | (high[row >> 3] >> (row & 7) & 1) << 1;
}

// Rows in each class. sum[i]: the i largest squared ranges added up in order, i = 0..rows.
XQ_FN void xq_ranked_split(xq_side s, const float * sum, int * count) {
    const int fine = xq_fine(s), per = 16 >> fine; // fields of a class-2 word
    const float e3 = xq_width_error(xq_class_bits(3, fine)), e2 = xq_width_error(xq_class_bits(2, fine));
    const float e1 = xq_width_error(xq_class_bits(1, fine)), e0 = xq_width_error(xq_class_bits(0, fine));
    float best = 0.0f;
    int found = 0;
    for (int w3 = 0; w3 <= s.words; ++w3) {
        for (int w2 = 0; w3 + w2 <= s.words; ++w2) {
            // a coarse side's last class takes no words, so class 1 has all that are left
            for (int w1 = fine ? 0 : s.words - w3 - w2; w3 + w2 + w1 <= s.words; ++w1) {
                int n3 = w3*per/2, n2 = n3 + w2*per, n1 = n2 + w1*per*2;
                n3 = n3 < s.rows ? n3 : s.rows; n2 = n2 < s.rows ? n2 : s.rows; n1 = n1 < s.rows ? n1 : s.rows;
                if (fine && (s.words - w3 - w2 - w1)*32 < s.rows - n1) {
                    continue; // a fine side has room for every row
                }
                float e = e3*sum[n3];
                e = e + e2*(sum[n2] - sum[n3]);
                e = e + e1*(sum[n1] - sum[n2]);
                e = e + e0*(sum[s.rows] - sum[n1]);
                if (!found || e < best) {
                    best = e;
                    found = 1;
                    count[3] = n3; count[2] = n2 - n3; count[1] = n1 - n2; count[0] = s.rows - n1;
                }
            }
        }
    }
}

#endif

#endif
