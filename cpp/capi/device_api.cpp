#include "capi/device_api.h"

#include "format/xq_table.h"
#include "graph/nodes.h"

#include "ggml-cpp.h"

#include <utility>
#include <vector>

namespace {

xq_node_layer node_of(const xq_layer_view & v) {
    xq_node_layer n{};
    n.k = v.k; n.v = v.v;
    n.dk = v.dk; n.dv = v.dv; n.n_head_kv = v.n_head_kv;
    n.k_leads = v.k_leads; n.v_leads = v.v_leads;
    n.k_code_stream = (int64_t) v.k_code_stream; n.v_code_stream = (int64_t) v.v_code_stream;
    n.meta_stream = (int64_t) v.meta_stream;
    n.page_stream = (int64_t) v.page_stream;
    n.k_row = (int64_t) v.k_row; n.v_row = (int64_t) v.v_row;
    n.v_meta_at = v.v_meta - v.k_meta;
    return n;
}

// A backend of its own for every call: one that is kept may replay a captured graph for a layer that differs only in
// what the description holds, which in llama.cpp never changes.
class device_layer {
public:
    const xq_node_layer node;
    xq_node_planes planes{};
    ggml_tensor * table = nullptr;

    device_layer(ggml_backend_dev_t device, const xq_layer_view & v, const xq_api_layer & a)
        : node(node_of(v)), backend(ggml_backend_dev_init(device, nullptr)),
          context(ggml_init({32*ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true})) {
        const int64_t streams = a.table[0] + a.n_stream;
        const auto plane = [&](ggml_type type, int64_t width, int64_t rows, void * data) {
            return copied(ggml_new_tensor_3d(context.get(), type, width, rows, streams), data);
        };
        planes.k_pages = plane(GGML_TYPE_F16, node.k_row, a.n_rows, a.k_pages);
        planes.v_pages = plane(GGML_TYPE_F16, node.v_row, a.n_rows, a.v_pages);
        planes.k_codes = plane(GGML_TYPE_I32, node.k_code_stream, 1, a.k_codes);
        planes.v_codes = plane(GGML_TYPE_I32, node.v_code_stream, 1, a.v_codes);
        planes.meta    = plane(GGML_TYPE_I8, node.meta_stream, 1, a.meta);
        table = input({GGML_TYPE_I32, a.table[2] + (int64_t) a.table[3]*XQ_SEAL_INTS, 1, 1, 1}, a.table);
    }

    struct shape { ggml_type type; int64_t n0, n1, n2, n3; };
    ggml_tensor * tensor(shape s) { return ggml_new_tensor_4d(context.get(), s.type, s.n0, s.n1, s.n2, s.n3); }
    ggml_tensor * input(shape s, const void * data) {
        ggml_tensor * t = tensor(s);
        inputs.emplace_back(t, data);
        return t;
    }
    ggml_context * ctx() { return context.get(); }

    // Computes the node and copies planes back, and the node's result where `out` is wanted.
    int compute(ggml_tensor * result, float * out) {
        ggml_cgraph * graph = ggml_new_graph(context.get());
        ggml_build_forward_expand(graph, result);
        const ggml_backend_buffer_ptr buffer(ggml_backend_alloc_ctx_tensors(context.get(), backend.get()));
        if (!buffer || !ggml_backend_supports_op(backend.get(), result)) {
            return -2;
        }
        for (const auto & [t, data] : inputs) {
            ggml_backend_tensor_set(t, data, 0, ggml_nbytes(t));
        }
        if (ggml_backend_graph_compute(backend.get(), graph) != GGML_STATUS_SUCCESS) {
            return -2;
        }
        for (const auto & [t, data] : outputs) {
            ggml_backend_tensor_get(t, data, 0, ggml_nbytes(t));
        }
        if (out) {
            ggml_backend_tensor_get(result, out, 0, ggml_nbytes(result));
        }
        return 0;
    }

private:
    ggml_backend_ptr backend;
    ggml_context_ptr context;
    std::vector<std::pair<ggml_tensor *, const void *>> inputs;
    std::vector<std::pair<ggml_tensor *, void *>> outputs;

    ggml_tensor * copied(ggml_tensor * t, void * data) {
        inputs.emplace_back(t, data);
        outputs.emplace_back(t, data);
        return t;
    }
};

// The device, if its backend has packed kernels, and what it says of the layer.
ggml_backend_dev_t with_kernels(const char * name, xq_layer_check & check) {
    ggml_backend_dev_t device = ggml_backend_dev_by_name(name);
    ggml_backend_reg_t reg = device ? ggml_backend_dev_backend_reg(device) : nullptr;
    check = reg ? (xq_layer_check) ggml_backend_reg_get_proc_address(reg, XQ_LAYER_CHECK) : nullptr;
    return check ? device : nullptr;
}

template <class F> int on_device(const char * name, const xq_layer_view & view, const xq_api_layer & a, F && f) {
    xq_layer_check check = nullptr;
    ggml_backend_dev_t device = with_kernels(name, check);
    if (!device) {
        return -1;
    }
    device_layer layer(device, view, a);
    return check(&layer.node) ? -2 : f(layer);
}

} // namespace

int xq_device_seal_layer(const char * device, const xq_layer_view & view, const xq_api_layer & a) {
    return on_device(device, view, a, [&](device_layer & l) {
        // sealing alone reads no new rows, but its node has them
        ggml_tensor * k = l.tensor({GGML_TYPE_F32, a.dk, a.n_head_kv, 1, 1}), * v = l.tensor({GGML_TYPE_F32, a.dv, a.n_head_kv, 1, 1});
        ggml_tensor * rows = l.tensor({GGML_TYPE_I64, 1, 1, 1, 1});
        return l.compute(xq_node_seal(l.ctx(), XQ_NODE_SEAL, l.node, l.planes, l.table, k, v, rows), nullptr);
    });
}

int xq_device_attend(const char * device, const xq_layer_view & view, const xq_api_layer & a) {
    return on_device(device, view, a, [&](device_layer & l) {
        ggml_tensor * q = l.input({GGML_TYPE_F32, a.dk, a.n_head, a.n_tokens, 1}, a.q);
        ggml_tensor * mask = l.input({GGML_TYPE_F16, a.n_kv, a.n_tokens/a.n_stream, 1, a.n_stream}, a.mask);
        ggml_tensor * sinks = a.sinks ? l.input({GGML_TYPE_F32, a.n_head, 1, 1, 1}, a.sinks) : nullptr;
        return l.compute(xq_node_attend(l.ctx(), l.node, l.planes, l.table, q, mask, sinks, {a.scale, a.softcap, a.max_bias}, 1), a.out);
    });
}
