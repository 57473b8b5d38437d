// What nodes_check.cpp runs its graphs on the second time: nodes_cuda.cpp or nodes_metal.cpp.
#pragma once

#include "graph/node.h"

#include "ggml-backend.h"

// Where tensors of the second run lie.
ggml_backend_t xq_nodes_backend();

// Runs the graph there, having asked whether each node is taken.
void xq_nodes_run(ggml_cgraph * gf);

// What is not taken: nodes that are not ours, layers that the kernels cannot have.
void xq_nodes_refusals();

// A layer with the default settings and both head dims d.
xq_node_layer xq_plain_layer(int d);
// A small context without memory.
ggml_context * xq_nodes_context();
ggml_backend_t xq_nodes_cpu();
