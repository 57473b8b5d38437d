// What a packed byte means: the one definition that C, C++, CUDA and Metal sources share.
//
// A *tile* is 32 consecutive KV cells of one KV head. It is stored as *strips*: rows x 32 lanes of codes,
// with one scale and one zero point per row (a row is a quantisation group).
//
//   keys    1 strip, 2 beyond 256      rows = channels              lanes = the tile's 32 tokens
//   values  ceil(head_dim/32) strips   rows = the tile's 32 tokens  lanes = 32 channels
//
// Two strips of keys have as many rows each, a multiple of 8. Rows behind the last channel hold zeros. A strip is
// coded by itself; a score is the sum over strips.
//
// So keys are grouped per channel over tokens, values per token over channels, and both scores and outputs
// are one primitive:  acc[lane] += m[row] * code[row][lane]  with the scales folded into m.
//
// Codes: every lane owns u32 words of its own; row i sits at bits (i*b) % 32 of word (i*b)/32, and word w of
// lane l is at index w*32 + l. On a GPU one warp reads one word per lane, coalesced; on a CPU the byte-wise
// mask (w >> k) & 0x03030303 yields rows k, k+4, k+8, k+12 of a lane, ready for maddubs / sdot / dp4a.
// 3-bit codes are a 2-bit plane (low bits) followed by a 1-bit plane.
//
// Ranked key strips (xq_ranked.h) hold rows of several widths: each word of a lane has fields of one width.
// Values may be rotated (xq_rotate.h) before they are stored, and then go without a zero point (xq_unbiased.h).
#ifndef XQ_FORMAT_H
#define XQ_FORMAT_H

#if !defined(__METAL_VERSION__)
#include <stdint.h>
#endif

#if defined(__CUDACC__)
#define XQ_FN static __host__ __device__ inline
#elif defined(__METAL_VERSION__)
#define XQ_FN static inline
#else
#define XQ_FN static inline
#endif

#define XQ_FORMAT_VERSION 3
#define XQ_TILE  32  // cells in a tile = elements in a group
#define XQ_LANES 32

// Head dims that can be packed: multiples of XQ_HEAD_DIM_STEP from XQ_MIN_HEAD_DIM to XQ_MAX_HEAD_DIM.
#define XQ_MIN_HEAD_DIM   32
#define XQ_MAX_HEAD_DIM  576
#define XQ_HEAD_DIM_STEP   8
#define XQ_MAX_ROWS      256 // of the longest strip: its rows are named by bytes
XQ_FN int xq_head_dim_fits(int dim) {
    return dim >= XQ_MIN_HEAD_DIM && dim <= XQ_MAX_HEAD_DIM && dim % XQ_HEAD_DIM_STEP == 0 ? 1 : 0;
}

// Strips of a head's keys, and the rows of each.
XQ_FN int xq_key_strips(int dk) { return (dk + XQ_MAX_ROWS - 1) / XQ_MAX_ROWS; }
XQ_FN int xq_key_rows(int dk) {
    const int step = XQ_HEAD_DIM_STEP*xq_key_strips(dk);
    return (dk + step - 1) / step * XQ_HEAD_DIM_STEP;
}
// Floats of a query in scratch: as many as its strips have rows (536 channels: 552), in whole words of lanes.
XQ_FN int xq_query_floats(int dk) { return (xq_key_strips(dk)*xq_key_rows(dk) + 31) & ~31; }

// Precision of a group's scale and zero point.
#define XQ_META_F16 0  // f16 scale, f16 zero point: 32 bits a group
#define XQ_META_Q8  1  // 8-bit scale, 8-bit midpoint under four f16 values a strip: 16 bits a group + 64 a strip
#define XQ_META_LOG8   2  // values, symmetric: 8-bit scale on a logarithmic grid, shared by two strips (xq_unbiased.h)
#define XQ_META_RANKED 3  // keys of several widths: class, 4-bit scale, 8-bit midpoint a row (xq_ranked.h)

// ---- codes ----------------------------------------------------------------------------------------------

XQ_FN int xq_n_planes(int bits) { return bits == 3 ? 2 : 1; }

// Bits of plane p: 3-bit codes split into 2 + 1, every other width is one plane.
XQ_FN int xq_plane_bits(int bits, int p) { return bits == 3 ? 2 - p : bits; }

// Words per lane that `rows` rows take in a plane of `plane_bits`.
XQ_FN int xq_plane_words(int rows, int plane_bits) { return (rows * plane_bits + 31) / 32; }

// u32 words of all planes and lanes of a strip.
XQ_FN int xq_strip_words(int rows, int bits) {
    int n = 0;
    for (int p = 0; p < xq_n_planes(bits); ++p) {
        n += xq_plane_words(rows, xq_plane_bits(bits, p)) * XQ_LANES;
    }
    return n;
}

// Row i of a lane out of the word that holds it, and into it (the field must be zero before).
XQ_FN int xq_code_word(int row, int plane_bits) { return (row * plane_bits) >> 5; }
XQ_FN int xq_code_shift(int row, int plane_bits) { return (row * plane_bits) & 31; }
XQ_FN uint32_t xq_code_at(uint32_t word, int shift, int plane_bits) { return (word >> shift) & ((1u << plane_bits) - 1u); }
XQ_FN uint32_t xq_code_get(uint32_t word, int row, int plane_bits) {
    return xq_code_at(word, xq_code_shift(row, plane_bits), plane_bits);
}
XQ_FN uint32_t xq_code_put(uint32_t word, int row, int plane_bits, uint32_t code) {
    return word | ((code & ((1u << plane_bits) - 1u)) << xq_code_shift(row, plane_bits));
}

// ---- quantiser (XQuant, arXiv 2510.11236, relaxed calibration) -------------------------------------------

// Largest code: 2^B - 1.
XQ_FN int xq_code_max(int bits) { return (1 << bits) - 1; }

// code = round((x - min) / s), s = (max - min) / (2^B - 1). `inv` is xq_group_inv(). Plain f32 steps without
// fused multiply-add, so that every implementation gives the same code.
//
// A number that is not finite counts as one that is not there: its row's scale and zero point are those of the others, and
// its code is 0. So a token with a NaN spoils no other token of its tile. Its own is read as something finite from then on,
// because codes cannot say NaN.
XQ_FN float xq_group_inv(float lo, float hi, int bits) {
    const float range = hi - lo;
    return range > 0.0f ? (float) xq_code_max(bits) / range : 0.0f;
}
XQ_FN int xq_encode(float x, float lo, float inv, int bits) {
    const float t = (x - lo) * inv;
    const int   c = (int) (t + 0.5f);
    return c < 0 ? 0 : (c > xq_code_max(bits) ? xq_code_max(bits) : c);
}

// Relaxed scale and zero point: s' = (1 - 2 eta) s and z' = min + eta (max - min). A larger eta pulls the end
// levels inwards: at low bits the extremes are rare and the end bins are better served nearer to the centre.
XQ_FN float xq_relaxed_scale(float lo, float hi, int bits, float eta) {
    const float s = (hi - lo) / (float) xq_code_max(bits);
    return (1.0f - 2.0f * eta) * s;
}
XQ_FN float xq_relaxed_zero(float lo, float hi, float eta) {
    const float pull = eta * (hi - lo);
    return lo + pull;
}

// Half way between minimum and maximum.
XQ_FN float xq_group_mid(float lo, float hi) {
    const float low = 0.5f * lo;
    return low + 0.5f * hi;
}

// ---- scale and zero planes --------------------------------------------------------------------------------
// XQ_META_F16: f16 scale[rows], f16 zero[rows]
// XQ_META_Q8 : f16 {scale_min, scale_step, mid_min, mid_step}, u8 scale[rows], u8 mid[rows]
//              scale = scale_min + scale_step*u ; mid = mid_min + mid_step*u ; zero = mid - scale*(2^B-1)/2
// The 8-bit grids: the minimum of the strip's values rounded to f16 (-0 becomes 0), step = f16((maximum - rounded minimum)/255).
// A row without data has scale 0 and zero point 0. Values beyond f16's range are clamped to it before rounding.
// The midpoint is stored instead of the zero point because an error in the scale then does not move the group.

#define XQ_META_Q8_HEAD 8  // bytes of the four f16 values
#define XQ_LOG_HEAD     4  // u16 lowest, u16 step of a logarithmic grid
#define XQ_RANKED_HEAD 20  // a logarithmic grid of scales, four f16 grids {lowest, step} of midpoints

XQ_FN int xq_meta_bytes(int rows, int meta) {
    switch (meta) {
        case XQ_META_F16:  return 4 * rows;
        case XQ_META_Q8:   return XQ_META_Q8_HEAD + 2 * rows;
        case XQ_META_LOG8: return XQ_LOG_HEAD + rows;
        default:           return XQ_RANKED_HEAD + rows/4 + rows/2 + rows;
    }
}

XQ_FN float xq_f16_range(float x) { return x > 65504.0f ? 65504.0f : (x < -65504.0f ? -65504.0f : x); }

// 8-bit code of v on the grid lo + step*u; inv = 1/step or 0.
XQ_FN int xq_meta_u8(float v, float lo, float inv) {
    const float t = (v - lo) * inv;
    const int   u = (int) (t + 0.5f);
    return u < 0 ? 0 : (u > 255 ? 255 : u);
}
XQ_FN float xq_meta_value(float lo, float step, int u) {
    const float t = step * (float) u;
    return lo + t;
}
XQ_FN float xq_zero_of_mid(float mid, float scale, int bits) {
    const float half_span = scale * (0.5f * (float) xq_code_max(bits));
    return mid - half_span;
}

// Logarithmic grids. The upper half of a float's bits, read as an integer, is a logarithm made of straight lines
// (128 steps an octave): a grid over it needs no log or exp, and is the same on every machine.
//   L(s) = (bits(s) + 0x8000) >> 16;  u = 1 + round((L - lowest) / step), u = 0 for a scale of 0
XQ_FN uint32_t xq_float_bits(float x) {
#if defined(__METAL_VERSION__)
    return as_type<uint32_t>(x);
#else
    union { float f; uint32_t u; } b;
    b.f = x;
    return b.u;
#endif
}
XQ_FN float xq_bits_float(uint32_t u) {
#if defined(__METAL_VERSION__)
    return as_type<float>(u);
#else
    union { float f; uint32_t u; } b;
    b.u = u;
    return b.f;
#endif
}
// Whether x is neither infinite nor a NaN; by its bits, because fast math takes comparisons with either away.
XQ_FN int xq_is_finite(float x) { return (xq_float_bits(x) & 0x7F800000u) != 0x7F800000u ? 1 : 0; }

XQ_FN int xq_log_of(float scale) { return (int) ((xq_float_bits(scale) + 0x8000u) >> 16); }
// The step that reaches from the lowest to the highest in `top` - 1 steps; top is the largest u.
XQ_FN int xq_log_step(int lowest, int highest, int top) { return (highest - lowest + top - 2) / (top - 1); }
XQ_FN int xq_log_code(int log, int lowest, int step) { return 1 + (step > 0 ? (log - lowest + step/2) / step : 0); }
XQ_FN float xq_log_value(int lowest, int step, int u) {
    return u > 0 ? xq_bits_float((uint32_t) (lowest + (u - 1)*step) << 16) : 0.0f;
}

// A follower layer keeps no codes: it reads its leader's, with scales and zero points of its own.
#define XQ_FIT_MINMAX 0  // from its own minimum and maximum, as the paper does
#define XQ_FIT_LS     1  // least squares of its values on the leader's codes; the scale may be negative

// ---- one side (keys or values) of one layer ---------------------------------------------------------------

typedef struct {
    int   bits;          // 1..4; 0: ranked
    int   meta;          // XQ_META_*
    int   rows;          // rows of a strip
    int   strips;        // strips of a tile and head
    int   lanes_last;    // valid lanes of the last strip (head_dim % 32 for values, 32 for keys)
    int   fit;           // XQ_FIT_*: how a follower's scales are found; an owner of codes always uses min/max
    int   words;         // ranked: u32 words of a lane
    int   rot;           // values: channels that are rotated together, 0 for none
    float eta;           // relaxation in [0, 0.5]; ranked: that of 1-bit rows
    float eta2;          // ranked: relaxation of 2-bit rows; wider rows have none
} xq_side;

// u32 words of one strip, all lanes.
XQ_FN int xq_side_words(xq_side s) { return s.meta == XQ_META_RANKED ? s.words*XQ_LANES : xq_strip_words(s.rows, s.bits); }

// Where the metadata of strip g of a head starts; two strips of a LOG8 side share theirs.
XQ_FN int xq_meta_at(xq_side s, int g) { return (s.meta == XQ_META_LOG8 ? g/2 : g) * xq_meta_bytes(s.rows, s.meta); }

XQ_FN int xq_head_words(xq_side s)      { return s.strips * xq_side_words(s); }
XQ_FN int xq_head_meta_bytes(xq_side s) {
    return xq_meta_bytes(s.rows, s.meta) * (s.meta == XQ_META_LOG8 ? (s.strips + 1)/2 : s.strips);
}

#endif
