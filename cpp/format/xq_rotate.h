// The rotation of values: a normalised Walsh-Hadamard transform over blocks of channels. It spreads outliers over
// the block, and is its own inverse, so that one pass over the output undoes it.
#ifndef XQ_ROTATE_H
#define XQ_ROTATE_H

#include "format/xq_format.h"

#define XQ_ROTATE_MOST 64

// Channels rotated together: the largest power of two up to 64 that divides the head dim.
XQ_FN int xq_rotate_block(int head_dim) {
    int n = XQ_ROTATE_MOST;
    while (head_dim % n != 0) {
        n /= 2;
    }
    return n;
}

#endif
