#include "reference/reference.h"

#include "format/xq_ranked.h"
#include "format/xq_rotate.h"
#include "format/xq_unbiased.h"

#include "ggml.h"

#include <algorithm>
#include <bitset>
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
    const float lo   = from_f16(to_f16(*std::min_element(v.begin(), v.end()))) + 0.0f; // -0 becomes 0
    const float hi   = *std::max_element(v.begin(), v.end()) + 0.0f;
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

// Sum of 32 lanes: the upper half onto the lower until one is left.
float fold_lanes(const float * x) {
    float v[XQ_LANES];
    std::copy(x, x + XQ_LANES, v);
    for (int n = XQ_LANES/2; n > 0; n /= 2) {
        for (int l = 0; l < n; ++l) {
            v[l] = v[l] + v[l + n];
        }
    }
    return v[0];
}

// Code of a row into its lane's words, which start at `word`.
void put_code(uint32_t * codes, int word, int row, int bits, int lane, uint32_t code) {
    uint32_t & w = codes[(word + xq_code_word(row, bits))*XQ_LANES + lane];
    w = xq_code_put(w, row, bits, code);
}

// Those lanes of a row that count: they hold data, and that is finite.
uint32_t lanes_with_data(const float * row, uint32_t lane_mask) {
    uint32_t bad = 0; // a bit that only the exponent of infinities and NaNs carries into; most rows have none
    for (int l = 0; l < XQ_LANES; ++l) {
        bad |= (xq_float_bits(row[l]) & 0x7F800000u) + 0x00800000u;
    }
    for (int l = 0; bad >> 31 && l < XQ_LANES; ++l) {
        lane_mask &= ~((uint32_t) !xq_is_finite(row[l]) << l);
    }
    return lane_mask;
}

// Minimum and maximum over some lanes of a row; lo > hi over none.
struct span { float lo, hi; };
span span_of(const float * row, uint32_t there) {
    span s = {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()};
    if (there == 0xFFFFFFFFu) { // nearly always
        for (int l = 0; l < XQ_LANES; ++l) {
            s.lo = std::min(s.lo, row[l]);
            s.hi = std::max(s.hi, row[l]);
        }
        return s;
    }
    for (int l = 0; l < XQ_LANES; ++l) {
        s.lo = there >> l & 1 ? std::min(s.lo, row[l]) : s.lo;
        s.hi = there >> l & 1 ? std::max(s.hi, row[l]) : s.hi;
    }
    return s;
}

// The row itself, or in `clean` a copy with zeros for the lanes that are not there.
const float * row_of(const float * row, uint32_t there, float * clean) {
    if (there == 0xFFFFFFFFu) {
        return row;
    }
    for (int l = 0; l < XQ_LANES; ++l) {
        clean[l] = there >> l & 1 ? row[l] : 0.0f;
    }
    return clean;
}

void seal_ranked(const xq_side & side, const float * x, uint32_t lane_mask, uint32_t * codes, uint8_t * meta) {
    const int rows = side.rows, fine = xq_fine(side);
    std::vector<float> lo(rows), hi(rows), range(rows), mean(rows), base(rows), inv(rows);
    std::vector<uint8_t> cls(rows);
    std::vector<uint32_t> there(rows);
    for (int i = 0; i < rows; ++i) {
        const float * row = x + i*XQ_LANES;
        float clean[XQ_LANES];
        there[i] = lanes_with_data(row, lane_mask);
        if (there[i] != 0) { // all stays 0 else
            const span s = span_of(row, there[i]);
            lo[i] = s.lo;
            hi[i] = s.hi;
            range[i] = hi[i] - lo[i];
            mean[i]  = fold_lanes(row_of(row, there[i], clean)) / (float) std::bitset<XQ_LANES>(there[i]).count();
        }
    }
    xq_ref_rank(side, range.data(), cls.data());
    xq_ref_write_ranked(side, cls.data(), lo.data(), hi.data(), mean.data(), meta, base.data(), inv.data());
    int first[XQ_CLASSES + 1], at[XQ_CLASSES] = {0};
    xq_ref_class_words(side, cls.data(), first);
    std::memset(codes, 0, sizeof(uint32_t) * xq_side_words(side));
    for (int i = 0; i < rows; ++i) {
        const int bits = xq_class_bits(cls[i], fine), place = at[cls[i]]++;
        for (int l = 0; l < XQ_LANES && bits > 0; ++l) {
            if (there[i] >> l & 1) {
                put_code(codes, first[cls[i]], place, bits, l, (uint32_t) xq_encode(x[i*XQ_LANES + l], base[i], inv[i], bits));
            }
        }
    }
}

void unpack_ranked(const xq_side & side, const uint32_t * codes, const uint8_t * meta, const float * scale, const float * zero,
                   float * out) {
    std::vector<uint8_t> cls(side.rows);
    for (int i = 0; i < side.rows; ++i) {
        cls[i] = (uint8_t) xq_ranked_class(meta, side.rows, i);
    }
    int first[XQ_CLASSES + 1], at[XQ_CLASSES] = {0};
    xq_ref_class_words(side, cls.data(), first);
    for (int i = 0; i < side.rows; ++i) {
        const int bits = xq_class_bits(cls[i], xq_fine(side)), place = at[cls[i]]++;
        for (int l = 0; l < XQ_LANES; ++l) {
            const uint32_t code = bits == 0 ? 0
                : xq_code_get(codes[(first[cls[i]] + xq_code_word(place, bits))*XQ_LANES + l], place, bits);
            out[i*XQ_LANES + l] = zero[i] + scale[i] * (float) code;
        }
    }
}

// Logarithmic grid over `log`, -1 where the scale is 0; top is the largest code.
void write_log_head(const std::vector<int> & log, int top, uint8_t * head, int & lowest, int & step) {
    int highest = -1;
    lowest = 1 << 20;
    for (const int l : log) {
        lowest  = l >= 0 ? std::min(lowest, l) : lowest;
        highest = std::max(highest, l);
    }
    if (highest < 0) {
        lowest = highest = 0;
    }
    step = xq_log_step(lowest, highest, top);
    put_u16(head,     (uint16_t) lowest);
    put_u16(head + 2, (uint16_t) step);
}

} // namespace

void xq_ref_rank(const xq_side & side, const float * range, uint8_t * cls) {
    std::vector<int> order(side.rows);
    for (int i = 0; i < side.rows; ++i) {
        order[i] = i;
    }
    std::stable_sort(order.begin(), order.end(), [range](int a, int b) { return range[a] > range[b]; });
    std::vector<float> sum(side.rows + 1, 0.0f);
    for (int i = 0; i < side.rows; ++i) {
        const float r = range[order[i]], r2 = r*r;
        sum[i + 1] = sum[i] + r2;
    }
    int count[XQ_CLASSES];
    xq_ranked_split(side, sum.data(), count);
    int at = 0;
    for (int c = XQ_CLASSES - 1; c >= 0; --c) {
        for (int n = 0; n < count[c]; ++n) {
            cls[order[at++]] = (uint8_t) c;
        }
    }
}

void xq_ref_class_words(const xq_side & side, const uint8_t * cls, int * first) {
    int rows[XQ_CLASSES] = {0}, word = 0;
    for (int i = 0; i < side.rows; ++i) {
        ++rows[cls[i]];
    }
    for (int c = XQ_CLASSES - 1; c >= 0; --c) {
        first[c] = word;
        word += xq_class_words(rows[c], xq_class_bits(c, xq_fine(side)));
    }
    first[XQ_CLASSES] = word;
}

void xq_ref_write_ranked(const xq_side & side, const uint8_t * cls, const float * lo, const float * hi, const float * mean,
                         uint8_t * meta, float * base, float * inv) {
    const int rows = side.rows;
    std::vector<int> bits(rows);
    std::vector<float> mid(rows, 0.0f); // as stored
    std::memset(meta, 0, xq_meta_bytes(rows, side.meta));
    for (int i = 0; i < rows; ++i) {
        bits[i] = xq_class_bits(cls[i], xq_fine(side));
        meta[XQ_RANKED_HEAD          + i/8] |= (uint8_t) ((cls[i] & 1)  << (i & 7));
        meta[XQ_RANKED_HEAD + rows/8 + i/8] |= (uint8_t) ((cls[i] >> 1) << (i & 7));
    }
    for (int c = 0; c < XQ_CLASSES; ++c) {
        std::vector<float> some;
        std::vector<int>   rows_of;
        for (int i = 0; i < rows; ++i) {
            if (cls[i] == c) {
                some.push_back(bits[i] == 0 ? mean[i] : xq_group_mid(lo[i], hi[i]));
                rows_of.push_back(i);
            }
        }
        if (some.empty()) {
            continue;
        }
        uint8_t * head = meta + xq_ranked_grid_at(c);
        std::vector<uint8_t> u(some.size());
        write_grid(some, head, u.data());
        for (size_t j = 0; j < u.size(); ++j) {
            meta[xq_ranked_mid_at(rows) + rows_of[j]] = u[j];
            mid[rows_of[j]] = xq_meta_value(from_f16(get_u16(head)), from_f16(get_u16(head + 2)), u[j]);
        }
    }
    std::vector<int> log(rows, -1);
    for (int i = 0; i < rows; ++i) {
        const float scale = bits[i] == 0 ? 0.0f
            : bits[i] >= 4 ? xq_reach_scale(lo[i], hi[i], mid[i], bits[i])
            : xq_relaxed_scale(lo[i], hi[i], bits[i], bits[i] == 1 ? side.eta : side.eta2);
        if (scale > 0.0f) {
            log[i] = bits[i] >= 4 ? xq_log_above(scale) : xq_log_of(scale);
        }
    }
    int lowest, step;
    write_log_head(log, 15, meta, lowest, step);
    for (int i = 0; i < rows; ++i) {
        const int u = log[i] < 0 ? 0 : bits[i] >= 4 ? xq_log_code_above(log[i], lowest, step) : xq_log_code(log[i], lowest, step);
        meta[xq_ranked_scale_at(rows) + i/2] |= (uint8_t) (u << 4*(i & 1));
        if (bits[i] >= 4) {
            const float scale = xq_log_value(lowest, step, u);
            base[i] = xq_zero_of_mid(mid[i], scale, bits[i]);
            inv[i]  = scale > 0.0f ? 1.0f / scale : 0.0f;
        } else {
            base[i] = lo[i];
            inv[i]  = xq_group_inv(lo[i], hi[i], bits[i]);
        }
    }
}

void xq_ref_write_log8(int rows, const float * scale, uint8_t * meta) {
    std::vector<int> log(rows, -1);
    for (int i = 0; i < rows; ++i) {
        log[i] = scale[i] > 0.0f ? xq_log_of(scale[i]) : -1;
    }
    int lowest, step;
    write_log_head(log, 255, meta, lowest, step);
    for (int i = 0; i < rows; ++i) {
        meta[XQ_LOG_HEAD + i] = (uint8_t) (log[i] < 0 ? 0 : xq_log_code(log[i], lowest, step));
    }
}

void xq_ref_seal_unbiased(const xq_side & side, const float * x, int n, int lanes, const uint8_t * row_ok,
                          uint32_t * codes, uint8_t * meta) {
    std::vector<float> scale(side.rows, 0.0f);
    const int words = xq_side_words(side);
    const float half = xq_half_levels(side.bits);
    std::memset(codes, 0, sizeof(uint32_t)*n*words);
    for (int i = 0; i < side.rows; ++i) {
        if (row_ok && !row_ok[i]) {
            continue;
        }
        float clean[2][XQ_LANES];
        const float * rows[2] = {};
        for (int s = 0; s < n; ++s) {
            const float * row = x + (s*side.rows + i)*XQ_LANES;
            rows[s] = row_of(row, lanes_with_data(row, 0xFFFFFFFFu), clean[s]);
        }
        const auto at = [&](int s, int l) { return rows[s][l]; };
        const auto valid = [&](int s, int l) { return s + 1 < n || l < lanes; };
        float square[XQ_LANES], along[XQ_LANES];
        for (int l = 0; l < XQ_LANES; ++l) {
            square[l] = at(0, l)*at(0, l);
            if (n == 2) {
                const float other = at(1, l)*at(1, l);
                square[l] = square[l] + other;
            }
        }
        const float xx = fold_lanes(square);
        const float inv = xq_unbiased_inv(std::sqrt(xx / (float) ((n - 1)*XQ_LANES + lanes)), side.bits);
        for (int s = 0; s < n; ++s) {
            for (int l = 0; l < XQ_LANES; ++l) {
                const int code = valid(s, l) ? xq_unbiased_encode(at(s, l), inv, side.bits) : 0;
                const float a = at(s, l) * ((float) code - half);
                along[l] = s == 0 ? a : along[l] + a;
                uint32_t rest = (uint32_t) code;
                uint32_t * plane = codes + s*words;
                for (int p = 0; p < xq_n_planes(side.bits); ++p) {
                    const int b = xq_plane_bits(side.bits, p);
                    put_code(plane, 0, i, b, l, rest);
                    rest >>= b;
                    plane += xq_plane_words(side.rows, b)*XQ_LANES;
                }
            }
        }
        scale[i] = xq_unbiased_scale(xx, fold_lanes(along));
    }
    xq_ref_write_log8(side.rows, scale.data(), meta);
}

void xq_ref_rotate(float * x, int n, int block) {
    const float norm = 1.0f / std::sqrt((float) block);
    for (float * b = x; b < x + n; b += block) {
        for (int h = 1; h < block; h *= 2) {
            for (int i = 0; i < block; i += 2*h) {
                for (int j = i; j < i + h; ++j) {
                    const float u = b[j], v = b[j + h];
                    b[j]     = u + v;
                    b[j + h] = u - v;
                }
            }
        }
        for (int i = 0; i < block; ++i) {
            b[i] *= norm;
        }
    }
}

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
    if (side.meta == XQ_META_RANKED) {
        return seal_ranked(side, x, lane_mask, codes, meta);
    }
    std::vector<float> scale(side.rows, 0.0f), zero(side.rows, 0.0f);
    if (!leader) {
        std::memset(codes, 0, sizeof(uint32_t) * xq_strip_words(side.rows, side.bits));
    }
    for (int i = 0; i < side.rows; ++i) {
        if (row_ok && !row_ok[i]) {
            continue;
        }
        const uint32_t there = lanes_with_data(x + i*XQ_LANES, lane_mask);
        if (there == 0) {
            continue;
        }
        const span s = span_of(x + i*XQ_LANES, there);
        const float lo = s.lo, hi = s.hi;
        scale[i] = xq_relaxed_scale(lo, hi, side.bits, side.eta);
        zero [i] = xq_relaxed_zero (lo, hi, side.eta);
        if (leader) {
            if (side.fit == XQ_FIT_LS) {
                std::vector<float> xs; std::vector<int> cs;
                for (int l = 0; l < XQ_LANES; ++l) {
                    if (there >> l & 1) {
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
            if (!(there >> l & 1)) {
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
    const uint16_t lowest = get_u16(meta), log_step = get_u16(meta + 2);
    if (side.meta == XQ_META_LOG8) {
        for (int i = 0; i < side.rows; ++i) {
            scale[i] = xq_log_value(lowest, log_step, meta[XQ_LOG_HEAD + i]);
            zero [i] = -scale[i]*xq_half_levels(side.bits);
        }
        return;
    }
    if (side.meta == XQ_META_RANKED) {
        for (int i = 0; i < side.rows; ++i) {
            const int cls = xq_ranked_class(meta, side.rows, i), bits = xq_class_bits(cls, xq_fine(side));
            const uint8_t * grid = meta + xq_ranked_grid_at(cls);
            const float mid = xq_meta_value(from_f16(get_u16(grid)), from_f16(get_u16(grid + 2)), meta[xq_ranked_mid_at(side.rows) + i]);
            scale[i] = xq_log_value(lowest, log_step, meta[xq_ranked_scale_at(side.rows) + i/2] >> 4*(i & 1) & 15);
            zero [i] = xq_zero_of_mid(mid, scale[i], bits);
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
    if (side.meta == XQ_META_RANKED) {
        return unpack_ranked(side, codes, meta, scale.data(), zero.data(), out);
    }
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
