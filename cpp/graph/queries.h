// How large a layer's queries are, channel by channel, from the model's weights alone: the part of the graph that makes
// them is run on random signs in place of what the last norm on the way gives: that of the queries themselves, or else the
// one in front of their projection. Whatever follows is run as it is (gains, biases, fused and quantised projections on any
// device, gates, RoPE), so no architecture is known here by name.
#pragma once

#include "ggml-backend.h"
#include "ggml.h"

#include <vector>

struct xq_query_sizes {
    std::vector<double> squares; // mean square, [n_head][dk]
    std::vector<int>    partner; // by channel of a head: the one that RoPE turns it into, or itself
};

// q [dk, n_head, n_tokens]: a node of a graph that is being built for `sched`. The same weights give the same figures for every
// n_tokens. Throws std::runtime_error with the reason if the queries are made in a way that cannot be run so.
xq_query_sizes xq_measure_queries(ggml_backend_sched_t sched, ggml_tensor * q);
