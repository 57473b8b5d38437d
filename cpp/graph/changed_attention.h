// A layer's attention over again with its keys, or its values, read back from codes of other widths.
#pragma once

#include "cache/config.h"
#include "graph/node.h"

#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml.h"

#include <initializer_list>
#include <utility>
#include <vector>

// A small f32 graph beside the model's, on the same backends.
class xq_own_graph {
public:
    xq_own_graph();
    ggml_context * ctx() const { return context.get(); }
    ggml_tensor * input(std::vector<float> data, std::initializer_list<int64_t> ne);
    ggml_tensor * output(ggml_tensor * t);
    // Throws std::runtime_error if there is no memory for it, or it fails.
    void run(ggml_backend_sched_t beside);
    std::vector<float> result(const ggml_tensor * t) const;

private:
    ggml_context_ptr context;
    ggml_cgraph * graph;
    ggml_backend_sched_ptr sched;
    std::vector<std::pair<ggml_tensor *, std::vector<float>>> inputs;
};

struct xq_changed {
    std::vector<float> rows;  // [widths of keys, then of values][n_tokens][n_head*dv]
    std::vector<char> counts; // by token: it reads something packed
};

// attend: a node (graph/node.h) that was just computed, of a cache with one stream that has pages for all its tokens. A token reads
// packed what config's window and sinks let it; the other side is exact.
xq_changed xq_changed_attention(ggml_backend_sched_t beside, const xq_config & config, const xq_node_layer & layer,
                                const ggml_tensor * attend, const std::vector<double> & k_bits, const std::vector<int> & v_bits);
