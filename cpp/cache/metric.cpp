#include "cache/metric.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

xq_metric::xq_metric(ggml_backend_buffer_type_t buft, int il, int dk, int n_head_kv, bool dry)
    : now((size_t) dk*n_head_kv, 0), is_known(dry) {
    ctx.reset(ggml_init({2*ggml_tensor_overhead(), nullptr, true}));
    k = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, dk, n_head_kv);
    q = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, dk, 1, n_head_kv);
    ggml_format_name(k, "xq_metric_k_l%d", il);
    ggml_format_name(q, "xq_metric_q_l%d", il);
    if (dry) {
        buffer.reset(ggml_backend_buft_alloc_buffer(buft, 0));
        k->buffer = q->buffer = buffer.get();
        return;
    }
    buffer.reset(ggml_backend_alloc_ctx_tensors_from_buft(ctx.get(), buft));
    if (!buffer) {
        throw std::runtime_error("xquant: the factors of keys must fit into memory; got no buffer on " +
                                 std::string(ggml_backend_buft_name(buft)) + "; use k_metric=none");
    }
    upload();
}

void xq_metric::set(xq_metric_steps steps) {
    now = std::move(steps);
    is_known = true;
    why.clear();
    upload();
}

void xq_metric::leave(const std::string & reason) {
    set(xq_metric_steps(now.size(), 0));
    why = reason;
}

double xq_metric::largest_over_smallest() const {
    const auto ends = std::minmax_element(now.begin(), now.end());
    return std::exp2((double) (*ends.second - *ends.first)/XQ_METRIC_OCTAVE);
}

ggml_tensor * xq_metric::keys(ggml_context * graph, ggml_tensor * of) const { return ggml_mul(graph, of, k); }

ggml_tensor * xq_metric::queries(ggml_context * graph, ggml_tensor * of) const {
    const int64_t heads = q->ne[2], group = of->ne[1]/heads;
    ggml_tensor * by_group = ggml_view_4d(graph, of, of->ne[0], group, heads, of->ne[2], of->nb[1], of->nb[1]*group, of->nb[2], 0);
    return ggml_mul(graph, by_group, q);
}

void xq_metric::upload() {
    std::vector<float> factor(now.size());
    const auto fill = [&](ggml_tensor * t, int sign) {
        std::transform(now.begin(), now.end(), factor.begin(), [sign](int step) { return std::exp2((float) (sign*step)/XQ_METRIC_OCTAVE); });
        ggml_backend_tensor_set(t, factor.data(), 0, ggml_nbytes(t));
    };
    fill(k, -1);
    fill(q, 1);
}
