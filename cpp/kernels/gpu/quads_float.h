// Products with codes in f32, for devices without dp4a. The four codes of a masked word are its bytes, which convert
// without a shift.
#pragma once

struct XQG_ALIGNED(16) xqg_quad { float m[4]; };
struct xqg_sum { float v; };

XQ_BODY float xqg_inv(float) { return 1.0f; }
XQ_BODY float xqg_step(float) { return 1.0f; }
XQ_BODY bool xqg_too_coarse(float) { return false; }

XQ_BODY void xqg_clear(XQ_SHARED xqg_quad * q) { q->m[0] = q->m[1] = q->m[2] = q->m[3] = 0.0f; }
XQ_BODY void xqg_put(XQ_SHARED xqg_quad * q, int byte, float scaled) { q->m[byte] = scaled; }

XQ_BODY void xqg_mac4(XQ_LOCAL xqg_sum & sum, uint32_t codes, XQ_SHARED const xqg_quad * q) {
    sum.v += q->m[0]*(float) (codes & 255u) + q->m[1]*(float) (codes >> 8 & 255u) + q->m[2]*(float) (codes >> 16 & 255u) +
             q->m[3]*(float) (codes >> 24);
}
XQ_BODY void xqg_reset(XQ_LOCAL xqg_sum & sum) { sum.v = 0.0f; }
XQ_BODY float xqg_total(XQ_LOCAL const xqg_sum & sum) { return sum.v; }
