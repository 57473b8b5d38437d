// One layer's factors of keys and queries (metric_steps.h) where its cache is, and the graph nodes that apply them.
#pragma once

#include "cache/metric_steps.h"

#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml.h"

#include <string>

// In a buffer of their own: clearing a cache clears its buffers.
class xq_metric {
public:
    // All factors are 1. Throws std::runtime_error if there is no memory. dry: of a model whose weights are not loaded; nothing
    // is allocated or measured, and graphs have the nodes that they would have.
    xq_metric(ggml_backend_buffer_type_t buft, int il, int dk, int n_head_kv, bool dry);

    bool known() const { return is_known; }
    void set(xq_metric_steps steps);
    // They stay 1, and why.
    void leave(const std::string & reason);

    const xq_metric_steps & steps() const { return now; }
    const std::string & why_one() const { return why; }
    double largest_over_smallest() const;

    // Graph nodes: keys [dk, n_head_kv, n_tokens] times the factors, and queries [dk, n_head, n_tokens] over them.
    ggml_tensor * keys   (ggml_context * graph, ggml_tensor * of) const;
    ggml_tensor * queries(ggml_context * graph, ggml_tensor * of) const;

private:
    void upload();

    ggml_context_ptr ctx;
    ggml_backend_buffer_ptr buffer;
    ggml_tensor * k, * q; // f32 [dk, n_head_kv], [dk, 1, n_head_kv]
    xq_metric_steps now;
    bool is_known = false;
    std::string why;
};
