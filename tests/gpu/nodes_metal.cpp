// Nodes through ggml's Metal backend, on a fake device (metal_device.h).
#include "../cpp/check.h"

#include "graph/nodes.h"
#include "kernels/gpu/metal/backend.h"
#include "kernels/gpu/metal/kernels.h"

#include "metal_device.h"
#include "nodes_device.h"

#include "ggml-backend-impl.h"
#include "ggml-impl.h"
#include "ggml-metal-common.h"
#include "ggml-metal.h"

#include <cstdlib>
#include <cstring>

namespace {

ggml_metal_device_t device_of(ggml_backend_t backend) { return (ggml_metal_device_t) ggml_backend_get_device(backend)->context; }

// Another device than the one that the nodes run on.
ggml_metal_device_t device_with(const xq_fake_traits & traits) {
    xq_fake = traits;
    const ggml_metal_device_t device = ggml_metal_device_init(9, 10);
    xq_fake = {};
    return device;
}

} // namespace

ggml_backend_t xq_nodes_backend() {
    static ggml_backend_t backend = [] {
        xq_fake.unified = std::getenv("XQ_UNIFIED") != nullptr;
        ggml_backend_t metal = ggml_backend_metal_init();
        xq_fake = {};
        return metal;
    }();
    return backend;
}

void xq_nodes_run(ggml_cgraph * gf) {
    static const ggml_metal_device_t elsewhere = device_with({});
    ggml_backend_t backend = xq_nodes_backend();
    for (int i = 0; i < ggml_graph_n_nodes(gf); ++i) {
        ggml_tensor * node = ggml_graph_node(gf, i);
        xq_node n;
        if (xq_node_read(node, n)) {
            CHECK(ggml_backend_supports_op(backend, node), node->name);
            CHECK(xq_metal_supports(elsewhere, node) == (n.kind == XQ_NODE_COMBINE)); // the planes are here
        }
    }
    ggml_graph_optimize(gf); // may reorder
    CHECK(ggml_backend_graph_compute(backend, gf) == GGML_STATUS_SUCCESS);
}

namespace {

void nothing(ggml_tensor *, int, int, void *) {}

// Nodes that are not ours, or of a library built from other sources.
void strangers(ggml_metal_device_t device) {
    check_context = "strangers";
    ggml_context * c = xq_nodes_context();
    ggml_tensor * x = ggml_new_tensor_1d(c, GGML_TYPE_F32, 4);
    ggml_tensor * node = ggml_custom_4d(c, GGML_TYPE_F32, 4, 1, 1, 1, &x, 1, nothing, 1, nullptr);
    CHECK(!xq_metal_supports(device, node) && !ggml_backend_supports_op(xq_nodes_backend(), node));
    CHECK(!xq_metal_supports(device, ggml_add(c, x, x)));
    CHECK(xq_metal_scratch(node) == 0);

    const xq_node_layer layer = xq_plain_layer(64);
    ggml_tensor * ours = xq_node_combine(c, layer, ggml_new_tensor_4d(c, GGML_TYPE_F32, 66, 2, 1, 3), nullptr);
    CHECK(xq_metal_supports(device, ours));
    ggml_tensor other = *ours;
    ((char *) other.op_params)[XQ_NODE_AT + offsetof(xq_node, layout)] ^= 1;
    CHECK(!xq_metal_supports(device, &other));
}

// What libllama asks before it puts a layer on the device.
void layers() {
    check_context = "layers";
    const ggml_backend_reg_t reg = ggml_backend_metal_reg();
    const auto check = (xq_layer_check) ggml_backend_reg_get_proc_address(reg, XQ_LAYER_CHECK);
    CHECK(check && !ggml_backend_reg_get_proc_address(reg, "xq_layer_check"));
    CHECK(ggml_backend_reg_get_proc_address(reg, "ggml_backend_get_features"));
    for (int d = 8; check && d <= 640; d += 8) {
        const xq_node_layer l = xq_plain_layer(d);
        CHECK((check(&l) == nullptr) == (d >= 32 && d <= XQ_MAX_HEAD_DIM), d);
    }
}

// The reason has the rule and what was there instead.
void refused(const xq_fake_traits & traits, int d, std::vector<const char *> words) {
    const xq_node_layer l = xq_plain_layer(d);
    const char * reason = xq_metal_refusal(device_with(traits), l);
    CHECK(reason);
    for (const char * word : words) {
        CHECK(reason && std::strstr(reason, word), word, reason ? reason : "not refused");
    }
}

void devices() {
    check_context = "devices";
    const auto traits = [](auto change) {
        xq_fake_traits t;
        change(t);
        return t;
    };
    refused(traits([](auto & t) { t.apple7 = false; }), 64, {"Apple7", "a fake Metal device"});
    refused(traits([](auto & t) { t.compiles = false; }), 64, {"Metal compiler", "log"});
    refused(traits([](auto & t) { t.without = "kernel_xq_seal"; }), 64, {"Metal 3.2", "macOS 15"});
    refused(traits([](auto & t) { t.without = "kernel_xq_attend_4"; }), 64, {"kernel_xq_attend_4"});
    refused(traits([](auto & t) { t.max_threads = 96; }), 64, {"128 threads", "96"});
    refused(traits([](auto & t) { t.limit = 14000; }), 256, {"at most 14000 bytes", "14240", "256"});
    const xq_node_layer small = xq_plain_layer(64);
    CHECK(!xq_metal_refusal(device_with(traits([](auto & t) { t.limit = 14000; })), small));
}

// Scratch for the longest context serves every shorter one, and every number of tokens up to its own.
void scratch() {
    check_context = "scratch";
    ggml_context * c = ggml_init({1 << 22, nullptr, true});
    const xq_node_layer layer = xq_plain_layer(64);
    const auto node = [&](int n_kv, int tokens) {
        const auto f32 = [&](int64_t n) { return ggml_new_tensor_3d(c, GGML_TYPE_F32, 64, n, tokens); };
        ggml_tensor * mask = ggml_new_tensor_4d(c, GGML_TYPE_F16, n_kv, tokens, 1, 1), * any = f32(1);
        return xq_node_attend(c, layer, {any, any, any, any, any}, any, f32(4), mask, nullptr, {1, 0, 0}, 1);
    };
    for (const int tokens : {1, 3, 40, 700}) {
        size_t before = 0;
        for (int n_kv = 256; n_kv <= 1200*256; n_kv += n_kv < 140*256 ? 256 : 37*256) {
            const ggml_tensor * t = node(n_kv, tokens);
            const size_t size = xq_metal_scratch(t), one = xq_metal_scratch(node(n_kv, 1));
            xq_node n;
            CHECK(xq_node_read(t, n));
            const xqg_attend_args a = xqg_attention_of(t, n, XQG_BATCH_MEMORY_METAL).a;
            const size_t row = sizeof(float)*a.n_parts*a.n_head*(a.layer.dv + 2);
            CHECK(size >= row*xqg_slice(tokens, a.n_parts, a.n_head, a.layer.dv), n_kv, tokens);
            CHECK(size >= before && size >= one && (size <= XQG_MOST_PARTS || size == one), n_kv, tokens);
            before = size;
            ggml_reset(c);
        }
    }
    CHECK(ggml_backend_buft_get_alloc_size(ggml_backend_get_default_buffer_type(xq_nodes_backend()), node(512, 1)) >
          4*64*sizeof(float) + 2*4*66*sizeof(float) - 1);
}

} // namespace

void xq_nodes_refusals() {
    strangers(device_of(xq_nodes_backend()));
    layers();
    devices();
    scratch();
}
