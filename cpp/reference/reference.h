// Slow, obvious truth: every kernel is tested against these functions. Never optimise them.
#pragma once

#include "format/xq_format.h"

#include <cstdint>

// Quantise one strip.
//   x         [rows][32] f32
//   row_ok    [rows] or null: 0 = the row holds no data (an empty cell): its codes are 0, its scale 0
//   lane_mask bit l set = lane l holds data; other lanes stay out of minimum and maximum and get code 0
//   codes     xq_strip_words() words: written if !leader, else the leader's codes, only read
//   meta      xq_meta_bytes() bytes, written
void xq_ref_seal_strip(const xq_side & side, const float * x, const uint8_t * row_ok, uint32_t lane_mask,
                       uint32_t * codes, bool leader, uint8_t * meta);

// Dequantise one strip to out [rows][32] f32.
void xq_ref_unpack_strip(const xq_side & side, const uint32_t * codes, const uint8_t * meta, float * out);

// Scale and zero point of every row of a strip.
void xq_ref_read_meta(const xq_side & side, const uint8_t * meta, float * scale, float * zero);

// The inverse: stores scale and zero point of every row in the side's metadata precision.
void xq_ref_write_meta(const xq_side & side, const float * scale, const float * zero, uint8_t * meta);

// Code of (row, lane) of a strip.
uint32_t xq_ref_code(const xq_side & side, const uint32_t * codes, int row, int lane);

// Attention of one query head over unpacked keys and values: plain two-pass softmax in double precision.
//   q [dk], k [n][dk], v [n][dv], mask [n] (added to the scaled score; -inf hides), out [dv]
//   softcap 0 = off; sink: extra logit without a value, or -inf
void xq_ref_attend(const float * q, const float * k, const float * v, const float * mask, int n, int dk, int dv,
                   float scale, float softcap, float sink, float * out);
