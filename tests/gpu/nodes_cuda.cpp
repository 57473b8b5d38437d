// Nodes on the CUDA host code (kernels/gpu/cuda/nodes.cu), with its launches on the emulator.
#include "../cpp/check.h"

#include "graph/nodes.h"
#include "kernels/gpu/cuda/launch.h"

#include "kernels/gpu/cuda/backend.h"
#include "nodes_device.h"

#include <cmath>
#include <vector>

ggml_backend_t xq_nodes_backend() { return xq_nodes_cpu(); } // device memory is the host's

// As ggml's CUDA backend does: views are nothing to do, and custom nodes are ours.
void xq_nodes_run(ggml_cgraph * gf) {
    ggml_backend_dev_t here = nullptr; // what ggml gives for plain host memory
    for (int i = 0; i < ggml_graph_n_nodes(gf); ++i) {
        ggml_tensor * node = ggml_graph_node(gf, i);
        if (node->op != GGML_OP_CUSTOM) {
            CHECK(node->op == GGML_OP_VIEW, ggml_op_name(node->op));
            continue;
        }
        xq_node n;
        CHECK(xq_node_read(node, n));
        CHECK(xq_cuda_supports(node, here), node->name);
        CHECK(xq_cuda_supports(node, (ggml_backend_dev_t) &n) == (n.kind == XQ_NODE_COMBINE)); // the planes are elsewhere
        std::vector<float> scratch(xq_cuda_scratch(node), NAN);
        CHECK(scratch.size()*sizeof(float) <= XQG_MOST_PARTS || n.kind == XQ_NODE_ATTEND);
        CHECK(xq_cuda_compute(node, scratch.data(), nullptr) == 0, node->name);
    }
}

namespace {

void nothing(ggml_tensor *, int, int, void *) {}

// Nodes that are not ours, or of a library built from other sources.
void strangers() {
    check_context = "strangers";
    ggml_context * c = xq_nodes_context();
    ggml_tensor * x = ggml_new_tensor_1d(c, GGML_TYPE_F32, 4);
    ggml_tensor * node = ggml_custom_4d(c, GGML_TYPE_F32, 4, 1, 1, 1, &x, 1, nothing, 1, nullptr);
    CHECK(!xq_cuda_supports(node, nullptr));
    CHECK(!xq_cuda_supports(ggml_add(c, x, x), nullptr));
    CHECK(xq_cuda_compute(node, nullptr, nullptr) != 0);
    CHECK(xq_cuda_scratch(node) == 1);

    const xq_node_layer layer = xq_plain_layer(64);
    ggml_tensor * ours = xq_node_combine(c, layer, ggml_new_tensor_4d(c, GGML_TYPE_F32, 66, 2, 1, 3), nullptr);
    CHECK(xq_cuda_supports(ours, nullptr));
    ggml_tensor other = *ours;
    ((char *) other.op_params)[XQ_NODE_AT + offsetof(xq_node, layout)] ^= 1;
    CHECK(!xq_cuda_supports(&other, nullptr));
}

// What libllama asks before it puts a layer on the device.
void layers() {
    check_context = "layers";
    const auto check = (xq_layer_check) xq_cuda_address(XQ_LAYER_CHECK);
    CHECK(check && !xq_cuda_address("xq_layer_check") && !xq_cuda_address("ggml_backend_get_features"));
    for (int d = 8; check && d <= 640; d += 8) {
        const xq_node_layer l = xq_plain_layer(d);
        CHECK((check(&l) == nullptr) == (d >= 32 && d <= XQ_MAX_HEAD_DIM), d);
    }
}

} // namespace

void xq_nodes_refusals() {
    strangers();
    layers();
}
