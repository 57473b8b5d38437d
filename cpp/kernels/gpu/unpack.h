// Codes of a strip back to numbers.
#pragma once

#include "kernels/gpu/strip.h"

// Where a strip's numbers go: xqg_emit(sink, row, lane, x).
struct xqg_to_strip { XQ_GLOBAL float * out; };  // [row][32]
XQ_BODY void xqg_emit(xqg_to_strip s, int row, int lane, float x) { s.out[row*XQ_LANES + lane] = x; }

// Where a ranked row's codes are, in 13 bits: class, word of the lane, shift.
XQ_BODY uint16_t xqg_note(int cls, int word, int shift) { return (uint16_t) (cls << 11 | word << 5 | shift); }
XQ_BODY int xqg_note_class(int note) { return note >> 11; }
XQ_BODY int xqg_note_word(int note)  { return note >> 5 & 63; }
XQ_BODY int xqg_note_shift(int note) { return note & 31; }

// Notes of all rows. A warp calls.
XQ_BODY void xqg_note_rows(xq_side side, XQ_GLOBAL const uint8_t * meta, XQ_SHARED uint16_t * notes, int lane) {
    xqg_counts counts = {{0, 0, 0, 0}}, before = {{0, 0, 0, 0}};
    for (int base = 0; base < side.rows; base += XQ_LANES) {
        const int i = base + lane;
        (void) xqg_place_in_class(counts, i < side.rows ? xqg_class(meta, side.rows, i) : -1, lane);
    }
    for (int base = 0; base < side.rows; base += XQ_LANES) {
        const int i = base + lane, cls = i < side.rows ? xqg_class(meta, side.rows, i) : -1;
        const int place = xqg_place_in_class(before, cls, lane);
        if (cls >= 0) {
            const xqg_segment s = xqg_class_segment(side, counts, cls);
            notes[i] = xqg_note(cls, s.first + xq_code_word(place, s.bits), xq_code_shift(place, s.bits));
        }
    }
}

// A block calls; every warp takes rows in turn. notes: of as many rows, for ranked strips.
template <class Sink>
XQ_BODY void xqg_unpack_strip(xqg_place at, xq_side side, XQ_GLOBAL const uint32_t * codes, XQ_GLOBAL const uint8_t * meta, Sink sink,
                              XQ_SHARED uint16_t * notes) {
    const bool ranked = side.meta == XQ_META_RANKED;
    if (ranked) {
        if (at.warp == 0) {
            xqg_note_rows(side, meta, notes, at.lane);
        }
        xqg_barrier();
    }
    for (int i = at.warp; i < side.rows; i += at.warps) {
        xqg_group g;
        uint32_t code = 0;
        if (ranked) {
            const int note = notes[i], cls = xqg_note_class(note), bits = xq_class_bits(cls, xq_fine(side));
            g = xqg_read_ranked(side, meta, i, cls);
            code = bits > 0 ? xq_code_at(codes[xqg_note_word(note)*XQ_LANES + at.lane], xqg_note_shift(note), bits) : 0u;
        } else {
            g = xqg_read_group(side, meta, i);
            code = xqg_code(codes, xqg_plane_segment(side, 0), i, at.lane);
            if (side.bits == 3) {
                code |= xqg_code(codes, xqg_plane_segment(side, 1), i, at.lane) << 2;
            }
        }
        xqg_emit(sink, i, at.lane, g.zero + g.scale*(float) code);
    }
}
