// Shared memory of the batch body, for the host and for the body.
#pragma once

#include "format/xq_format.h"

// Shared memory that the body counts on, in bytes: what a block may have on every device without being asked.
#define XQG_BATCH_MEMORY_CUDA  (48*1024)
#define XQG_BATCH_MEMORY_METAL (32*1024)

#define XQG_BATCH_KEYS  40 // f16 elements from one channel's 32 tokens to the next: rows start in different banks
#define XQG_BATCH_STAGE 36 // floats from row to row where a warp's logits meet its lanes

XQ_FN int xqg_up16(int n) { return (n + 15) & ~15; }

// In floats; every part starts at a multiple of 8 of them, as matrix units want.
typedef struct {
    int q, kv, notes, cells, stage;
    int floats;
    int ldq, ldv; // f16 elements from row to row
} xqg_batch_layout;

XQ_FN xqg_batch_layout xqg_batch_layout_of(int dk, int dv, int warps) {
    xqg_batch_layout l;
    l.ldq = xqg_up16(dk) + 8;
    l.ldv = xqg_up16(dv) + 8;
    const int keys = xqg_up16(dk)*XQG_BATCH_KEYS, values = XQ_TILE*l.ldv;
    l.q     = 0;
    l.kv    = l.q + 16*warps*l.ldq/2;
    l.notes = l.kv + (keys > values ? keys : values)/2;
    l.cells = l.notes + xqg_up16(dk)/2;
    l.stage = l.cells + 16; // two tiles, four warps, two forms
    l.floats = l.stage + warps*16*XQG_BATCH_STAGE;
    return l;
}

// The body's largest head dim: outputs are in registers, and keys are one strip.
#define XQG_BATCH_HEAD_DIM XQ_MAX_ROWS

// Warps that have 16 rows each: 4, or as many as fit; 0 if none does.
XQ_FN int xqg_batch_warps(int dk, int dv, int limit) {
    int warps = dk <= XQG_BATCH_HEAD_DIM && dv <= XQG_BATCH_HEAD_DIM ? 4 : 0;
    while (warps > 0 && 4*xqg_batch_layout_of(dk, dv, warps).floats > limit) {
        warps /= 2;
    }
    return warps;
}
