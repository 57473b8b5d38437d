// Slow, obvious truth: every kernel is tested against these functions. Never optimise them.
#pragma once

#include "format/xq_format.h"

#include <cstdint>

// Quantise one strip of uniform or ranked rows (a ranked strip has all rows, and no leader).
//   x         [rows][32] f32
//   row_ok    [rows] or null: 0 = the row holds no data (an empty cell): its codes are 0, its scale 0
//   lane_mask bit l set = lane l holds data; other lanes stay out of minimum and maximum and get code 0
//   codes     xq_side_words() words: written if !leader, else the leader's codes, only read
//   meta      xq_meta_bytes() bytes, written
void xq_ref_seal_strip(const xq_side & side, const float * x, const uint8_t * row_ok, uint32_t lane_mask,
                       uint32_t * codes, bool leader, uint8_t * meta);

// Quantise the n (1 or 2) value strips that share a scale, XQ_META_LOG8 (xq_unbiased.h).
//   x      [n][rows][32] f32, 0 in lanes without data
//   lanes  valid lanes of the last of the n strips
//   codes  n strips' words;  meta  one strip's metadata
void xq_ref_seal_unbiased(const xq_side & side, const float * x, int n, int lanes, const uint8_t * row_ok,
                          uint32_t * codes, uint8_t * meta);

// Class of every row of a ranked strip by its range.
void xq_ref_rank(const xq_side & side, const float * range, uint8_t * cls);

// Metadata of a ranked strip from every row's class, minimum, maximum and mean. A code is then
// xq_encode(x, base, inv, bits of the class).
void xq_ref_write_ranked(const xq_side & side, const uint8_t * cls, const float * lo, const float * hi, const float * mean,
                         uint8_t * meta, float * base, float * inv);

// Metadata of unbiased strips from every row's scale.
void xq_ref_write_log8(int rows, const float * scale, uint8_t * meta);

// First word (of a lane) of every class of a ranked strip, and of what follows the last: [5], by class.
void xq_ref_class_words(const xq_side & side, const uint8_t * cls, int * first);

// Rotate `n` values in blocks of `block` (xq_rotate.h), in place.
void xq_ref_rotate(float * x, int n, int block);

// Dequantise one strip to out [rows][32] f32.
void xq_ref_unpack_strip(const xq_side & side, const uint32_t * codes, const uint8_t * meta, float * out);

// Scale and zero point of every row of a strip, any kind of metadata.
void xq_ref_read_meta(const xq_side & side, const uint8_t * meta, float * scale, float * zero);

// The inverse for XQ_META_F16 and XQ_META_Q8.
void xq_ref_write_meta(const xq_side & side, const float * scale, const float * zero, uint8_t * meta);

// Code of (row, lane) of a uniform strip.
uint32_t xq_ref_code(const xq_side & side, const uint32_t * codes, int row, int lane);

// Attention of one query head over unpacked keys and values: plain two-pass softmax in double precision.
//   q [dk], k [n][dk], v [n][dv], mask [n] (added to the scaled score; -inf hides), out [dv]
//   softcap 0 = off; sink: extra logit without a value, or -inf
void xq_ref_attend(const float * q, const float * k, const float * v, const float * mask, int n, int dk, int dv,
                   float scale, float softcap, float sink, float * out);
