// Products with codes in integers: a multiplier is hi*256 + lo, four of them and four codes meet in two dp4a.
//
// Per word of 2-bit codes (16 of a lane) and query row that is 8 dp4a and 4 loads of 8 bytes, beside 8 instructions to
// take the word apart, which all rows share. With f32 it would be 16 fused multiply-adds and 4 loads of 16 bytes a row,
// beside at least 32 instructions to take the codes out and convert them: more at any number of rows.
#pragma once

#define XQG_MOST_MULTIPLIER 32512.0f // 127*256
// Share of a channel in a logit beyond which 16 bits are too coarse, as XQ_MAX_SHARE on the CPU.
#define XQG_MOST_SHARE 64.0f

struct XQG_ALIGNED(8) xqg_quad { int hi, lo; };
struct xqg_sum { int hi, lo; };

// Multipliers are stored times xqg_inv(most), most being the largest of them; xqg_step(most) undoes that.
XQ_BODY float xqg_inv(float most) { return most > 1e-30f ? XQG_MOST_MULTIPLIER / most : 0.0f; }
XQ_BODY float xqg_step(float most) { return most * (1.0f / XQG_MOST_MULTIPLIER); }
XQ_BODY bool xqg_too_coarse(float share) { return share > XQG_MOST_SHARE; }

XQ_BODY void xqg_clear(XQ_SHARED xqg_quad * q) { q->hi = q->lo = 0; }
XQ_BODY void xqg_put(XQ_SHARED xqg_quad * q, int byte, float scaled) {
    const int v  = xqg_round(scaled);
    const int hi = (v + 128) >> 8; // so that the rest lies in -128..127
    XQ_SHARED uint8_t * bytes = (XQ_SHARED uint8_t *) q;
    bytes[byte]     = (uint8_t) hi;
    bytes[byte + 4] = (uint8_t) (v - hi*256);
}

XQ_BODY void xqg_mac4(XQ_LOCAL xqg_sum & sum, uint32_t codes, XQ_SHARED const xqg_quad * q) {
    const xqg_quad m = *q;
    sum.hi = xqg_dp4a(codes, m.hi, sum.hi);
    sum.lo = xqg_dp4a(codes, m.lo, sum.lo);
}
XQ_BODY void xqg_reset(XQ_LOCAL xqg_sum & sum) { sum.hi = sum.lo = 0; }
XQ_BODY float xqg_total(XQ_LOCAL const xqg_sum & sum) { return (float) sum.hi*256.0f + (float) sum.lo; }
