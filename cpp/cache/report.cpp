// What the cache holds and costs, as JSON for the C API.
#include "cache/cache.h"

#include "cache/text.h"
#include "kernels/cpu/attend.h"
#include "kernels/gpu/launch.h"

#include <algorithm>

namespace {

std::string num(double v) { return xq_number(v, 6); }

// Partial results of a slice of tokens on a device (kernels/gpu/cuda/nodes.cu).
size_t device_scratch_bytes(const xq_layer_shape & s, int n_ctx, int max_ubatch) {
    const int span = xqg_span(n_ctx), parts = (xqg_chunks(n_ctx) + span - 1)/span;
    return (size_t) xqg_slice(max_ubatch, parts, s.n_head, s.dv)*parts*s.n_head*(s.dv + 2)*sizeof(float);
}

// Working memory of one layer's attention on the CPU: scratch of every thread, and the largest partial results that a
// micro-batch can have in the compute buffer. Layers run one after the other and share it.
size_t scratch_bytes(const xq_layer_shape & s, int n_ctx, int max_ubatch, int n_threads) {
    size_t parts = 0;
    for (int n_tokens = 1; n_tokens <= max_ubatch; ++n_tokens) {
        const int n = xq_attend_parts(n_tokens, 1, s.n_head_kv, s.n_head, n_ctx, s.dv);
        if (n > 1) {
            parts = std::max(parts, (size_t) n*n_tokens*s.n_head*(s.dv + 2)*sizeof(float));
        }
    }
    return xq_attend_scratch(s.dk, s.dv)*n_threads + parts;
}

// Code bits a channel: those of a ranked side are what its words hold.
double side_bits(const xq_side & s) { return s.meta == XQ_META_RANKED ? 32.0*s.words/s.rows : s.bits; }

} // namespace

std::string xq_cache::report(uint32_t tokens, size_t unpacked_bytes, int n_threads, const xq_cache * window) const {
    size_t codes = 0, scales = 0, residual = 0, scratch = 0, f16 = 0;
    double code_bits = 0, per_token = 0, elements = 0, padded = 0;
    xq_text rows;
    const auto add = [&](const xq_cache & of) {
        f16 += of.f16_bytes();
        for (const auto & l : of.layers) {
            const auto & s = l.plan.shape;
            if (s.n_head_kv == 0) { // a layer without attention, as in Nemotron-Super: it has no keys
                continue;
            }
            const size_t c = l.code_bytes()*of.n_stream, m = l.meta_bytes()*of.n_stream, r = l.page_bytes()*of.n_stream;
            const double k_el = (double) s.n_head_kv*s.dk, v_el = (double) s.n_head_kv*s.dv;
            codes += c; scales += m; residual += r;
            per_token += k_el + v_el;
            elements  += (k_el + v_el)*of.kv_size*of.n_stream;
            padded    += (k_el + v_el)*of.tiles[0].n_tiles()*XQ_TILE*of.n_stream;
            code_bits += (l.owns_k() ? side_bits(l.plan.k)*k_el : 0) + (l.owns_v() ? side_bits(l.plan.v)*v_el : 0);
            const size_t t = l.on_host ? scratch_bytes(s, (int) of.kv_size, (int) of.micro_batch, n_threads)
                                       : device_scratch_bytes(s, (int) of.kv_size, (int) of.micro_batch);
            scratch = std::max(scratch, t);
            rows << (rows.tellp() > 0 ? "," : "") << "{\"il\":" << s.il << ",\"packed\":true"
                 << ",\"k_bits\":" << num(side_bits(l.plan.k)) << ",\"v_bits\":" << num(side_bits(l.plan.v))
                 << ",\"k_leader\":" << (l.owns_k() ? -1 : l.plan.k_leader)
                 << ",\"v_leader\":" << (l.owns_v() ? -1 : l.plan.v_leader)
                 << ",\"k_metric\":" << num(l.metric ? l.metric->largest_over_smallest() : 1)
                 << ",\"k_metric_why_one\":\"" << (l.metric ? l.metric->why_one() : "k_metric=none") << "\""
                 << ",\"n_head_kv\":" << s.n_head_kv << ",\"head_dim_k\":" << s.dk << ",\"head_dim_v\":" << s.dv
                 << ",\"bytes_codes\":" << c << ",\"bytes_scales\":" << m << ",\"bytes_residual\":" << r
                 << ",\"cells\":" << of.kv_size
                 << ",\"bytes_scratch\":" << t << "}"; // shared by all layers, not added up
        }
    };
    add(*this);
    if (window) {
        add(*window);
    }
    int sealed = 0, residual_tiles = 0;
    for (uint32_t s = 0; s < n_stream; ++s) {
        sealed         += tiles[s].count_sealed();
        residual_tiles += tiles[s].count_residual();
    }
    // The last tile may reach past n_ctx: true bits are those of a sealed token, allocated bits those of n_ctx.
    // Where every attention layer has a sliding window nothing is packed, and all bits are 0.
    for (double * n : {&per_token, &elements, &padded}) {
        *n = std::max(*n, 1.0);
    }
    xq_text out;
    out << "{\"format_version\":" << XQ_FORMAT_VERSION << ",\"n_ctx\":" << kv_size*n_stream << ",\"n_stream\":" << n_stream
        << ",\"n_seq_max\":" << n_seq_max << ",\"tile\":" << XQ_TILE << ",\"window\":" << config.window << ",\"sink\":" << config.sink
        << ",\"tokens\":" << tokens << ",\"tiles_sealed\":" << sealed << ",\"tiles_residual\":" << residual_tiles
        << ",\"pages\":" << tiles[0].n_pages() << ",\"cpu\":\"" << xq_cpu().name << "\",\"config\":\"" << config.text() << "\""
        << ",\"bytes\":{\"codes\":" << codes << ",\"scales\":" << scales << ",\"residual\":" << residual
        << ",\"scratch\":" << scratch << ",\"unpacked\":" << unpacked_bytes << "}"
        << ",\"bytes_f16\":" << f16 + unpacked_bytes
        << ",\"code_bits\":" << num(code_bits/per_token)
        << ",\"true_bits\":" << num(8.0*(codes + scales)/padded)
        << ",\"allocated_bits\":" << num(8.0*(codes + scales + residual)/elements)
        << ",\"layers\":[" << rows.str() << "]}";
    return out.str();
}
