#include "reference/reference.h"

#include "ggml.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace {

uint16_t to_f16(float x) { return ggml_fp32_to_fp16(xq_f16_range(x)); }
float    from_f16(uint16_t x) { return ggml_fp16_to_fp32(x); }

void put_u16(uint8_t * p, uint16_t v) { std::memcpy(p, &v, 2); }
uint16_t get_u16(const uint8_t * p) { uint16_t v; std::memcpy(&v, p, 2); return v; }

// 8-bit grid over v[0..n): the minimum rounded to f16 and a step that reaches the maximum.
void write_grid(const std::vector<float> & v, uint8_t * head, uint8_t * out) {
    const float lo   = from_f16(to_f16(*std::min_element(v.begin(), v.end())));
    const float hi   = *std::max_element(v.begin(), v.end());
    const float step = from_f16(to_f16((hi - lo) / 255.0f));
    const float inv  = step > 0.0f ? 1.0f / step : 0.0f;
    put_u16(head + 0, to_f16(lo));
    put_u16(head + 2, to_f16(step));
    for (size_t i = 0; i < v.size(); ++i) {
        out[i] = (uint8_t) xq_meta_u8(v[i], lo, inv);
    }
}

// Least squares of x on the codes c: x ~ zero + scale*c.
void fit_ls(const std::vector<float> & x, const std::vector<int> & c, float & scale, float & zero) {
    double sx = 0, sc = 0, scc = 0, scx = 0;
    for (size_t i = 0; i < x.size(); ++i) {
        sx += x[i]; sc += c[i]; scc += (double) c[i]*c[i]; scx += (double) c[i]*x[i];
    }
    const double n = (double) x.size(), var = scc - sc*sc/n;
    const double s = var > 1e-6 ? (scx - sc*sx/n) / var : 0.0;
    scale = (float) s;
    zero  = (float) ((sx - s*sc) / n);
}

} // namespace

uint32_t xq_ref_code(const xq_side & side, const uint32_t * codes, int row, int lane) {
    uint32_t code = 0;
    int shift = 0;
    for (int p = 0; p < xq_n_planes(side.bits); ++p) {
        const int b = xq_plane_bits(side.bits, p);
        code |= xq_code_get(codes[xq_code_word(row, b)*XQ_LANES + lane], row, b) << shift;
        codes += xq_plane_words(side.rows, b) * XQ_LANES;
        shift += b;
    }
    return code;
}

void xq_ref_seal_strip(const xq_side & side, const float * x, const uint8_t * row_ok, uint32_t lane_mask,
                       uint32_t * codes, bool leader, uint8_t * meta) {
    std::vector<float> scale(side.rows, 0.0f), zero(side.rows, 0.0f);
    if (!leader) {
        std::memset(codes, 0, sizeof(uint32_t) * xq_strip_words(side.rows, side.bits));
    }
    for (int i = 0; i < side.rows; ++i) {
        if (row_ok && !row_ok[i]) {
            continue;
        }
        float lo = std::numeric_limits<float>::infinity(), hi = -lo;
        for (int l = 0; l < XQ_LANES; ++l) {
            if (lane_mask >> l & 1) {
                lo = std::min(lo, x[i*XQ_LANES + l]);
                hi = std::max(hi, x[i*XQ_LANES + l]);
            }
        }
        if (lo > hi) {
            continue; // no lane holds data
        }
        scale[i] = xq_relaxed_scale(lo, hi, side.bits, side.eta);
        zero [i] = xq_relaxed_zero (lo, hi, side.eta);
        if (leader) {
            if (side.fit == XQ_FIT_LS) {
                std::vector<float> xs; std::vector<int> cs;
                for (int l = 0; l < XQ_LANES; ++l) {
                    if (lane_mask >> l & 1) {
                        xs.push_back(x[i*XQ_LANES + l]);
                        cs.push_back((int) xq_ref_code(side, codes, i, l));
                    }
                }
                fit_ls(xs, cs, scale[i], zero[i]);
            }
            continue;
        }
        const float inv = xq_group_inv(lo, hi, side.bits);
        for (int l = 0; l < XQ_LANES; ++l) {
            if (!(lane_mask >> l & 1)) {
                continue;
            }
            uint32_t code = (uint32_t) xq_encode(x[i*XQ_LANES + l], lo, inv, side.bits);
            uint32_t * plane = codes;
            for (int p = 0; p < xq_n_planes(side.bits); ++p) {
                const int b = xq_plane_bits(side.bits, p);
                uint32_t & word = plane[xq_code_word(i, b)*XQ_LANES + l];
                word = xq_code_put(word, i, b, code);
                code >>= b;
                plane += xq_plane_words(side.rows, b) * XQ_LANES;
            }
        }
    }
    xq_ref_write_meta(side, scale.data(), zero.data(), meta);
}

void xq_ref_write_meta(const xq_side & side, const float * scale, const float * zero, uint8_t * meta) {
    if (side.meta == XQ_META_F16) {
        for (int i = 0; i < side.rows; ++i) {
            put_u16(meta + 2*i,               to_f16(scale[i]));
            put_u16(meta + 2*(side.rows + i), to_f16(zero[i]));
        }
        return;
    }
    std::vector<float> grid(scale, scale + side.rows), mid(side.rows);
    for (int i = 0; i < side.rows; ++i) {
        const float half_span = scale[i] * (0.5f * (float) xq_code_max(side.bits));
        mid[i] = zero[i] + half_span;
    }
    write_grid(grid, meta + 0, meta + XQ_META_Q8_HEAD);
    write_grid(mid,  meta + 4, meta + XQ_META_Q8_HEAD + side.rows);
}

void xq_ref_read_meta(const xq_side & side, const uint8_t * meta, float * scale, float * zero) {
    if (side.meta == XQ_META_F16) {
        for (int i = 0; i < side.rows; ++i) {
            scale[i] = from_f16(get_u16(meta + 2*i));
            zero [i] = from_f16(get_u16(meta + 2*(side.rows + i)));
        }
        return;
    }
    const float s0 = from_f16(get_u16(meta + 0)), s1 = from_f16(get_u16(meta + 2));
    const float m0 = from_f16(get_u16(meta + 4)), m1 = from_f16(get_u16(meta + 6));
    for (int i = 0; i < side.rows; ++i) {
        scale[i] = xq_meta_value(s0, s1, meta[XQ_META_Q8_HEAD + i]);
        const float mid = xq_meta_value(m0, m1, meta[XQ_META_Q8_HEAD + side.rows + i]);
        zero[i] = xq_zero_of_mid(mid, scale[i], side.bits);
    }
}

void xq_ref_unpack_strip(const xq_side & side, const uint32_t * codes, const uint8_t * meta, float * out) {
    std::vector<float> scale(side.rows), zero(side.rows);
    xq_ref_read_meta(side, meta, scale.data(), zero.data());
    for (int i = 0; i < side.rows; ++i) {
        for (int l = 0; l < XQ_LANES; ++l) {
            out[i*XQ_LANES + l] = zero[i] + scale[i] * (float) xq_ref_code(side, codes, i, l);
        }
    }
}

void xq_ref_attend(const float * q, const float * k, const float * v, const float * mask, int n, int dk, int dv,
                   float scale, float softcap, float sink, float * out) {
    std::vector<double> s(n);
    double top = sink;
    for (int j = 0; j < n; ++j) {
        double dot = 0;
        for (int i = 0; i < dk; ++i) {
            dot += (double) q[i] * k[j*dk + i];
        }
        dot *= scale;
        if (softcap != 0.0f) {
            dot = softcap * std::tanh(dot / softcap);
        }
        s[j] = dot + mask[j];
        top  = std::max(top, s[j]);
    }
    std::vector<double> acc(dv, 0.0);
    double sum = std::exp((double) sink - top);
    if (!(top > -std::numeric_limits<double>::infinity())) {
        sum = 0.0;
    }
    for (int j = 0; j < n; ++j) {
        if (!(s[j] > -std::numeric_limits<double>::infinity())) {
            continue;
        }
        const double p = std::exp(s[j] - top);
        sum += p;
        for (int i = 0; i < dv; ++i) {
            acc[i] += p * v[j*dv + i];
        }
    }
    for (int i = 0; i < dv; ++i) {
        out[i] = sum > 0.0 ? (float) (acc[i] / sum) : 0.0f;
    }
}
