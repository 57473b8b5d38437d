// The conversion of cache/convert.h on plain arrays: they are copied into tensors, and back.
#include "capi/kernels_api.h"

#include "cache/cache.h"
#include "cache/convert.h"
#include "capi/device_api.h"

#include "ggml-cpp.h"

#include <utility>
#include <vector>

namespace {

template <class F> int on_tensors(const xq_api_layer & a, int n_stream, F && f) {
    const xq_layer_view view = xq_api_view(a);
    xq_layer layer;
    layer.plan.shape = {0, a.n_head_kv, a.dk, a.dv};
    layer.plan.k = view.k; layer.plan.v = view.v;
    layer.plan.k_leader = a.k_leads ? 0 : -1;
    layer.plan.v_leader = a.v_leads ? 0 : -1;
    layer.n_tiles = (uint32_t) a.n_tiles; layer.n_rows = (uint32_t) a.n_rows;
    layer.describe();

    const ggml_context_ptr context(ggml_init({8*ggml_tensor_overhead(), nullptr, true}));
    std::vector<std::pair<ggml_tensor *, void *>> arrays;
    const auto plane = [&](ggml_type type, int64_t width, int64_t rows, void * data) {
        arrays.emplace_back(ggml_new_tensor_3d(context.get(), type, width, rows, n_stream), data);
        return arrays.back().first;
    };
    layer.planes.k_pages = plane(GGML_TYPE_F16, layer.node.k_row, a.n_rows, a.k_pages);
    layer.planes.v_pages = plane(GGML_TYPE_F16, layer.node.v_row, a.n_rows, a.v_pages);
    layer.planes.k_codes = plane(GGML_TYPE_I32, layer.node.k_code_stream, 1, a.k_codes);
    layer.planes.v_codes = plane(GGML_TYPE_I32, layer.node.v_code_stream, 1, a.v_codes);
    layer.planes.meta    = plane(GGML_TYPE_I8, layer.node.meta_stream, 1, a.meta);
    const ggml_backend_buffer_ptr buffer(
        ggml_backend_alloc_ctx_tensors_from_buft(context.get(), ggml_backend_cpu_buffer_type()));
    if (!buffer) {
        return -2;
    }
    for (const auto & [t, data] : arrays) {
        ggml_backend_tensor_set(t, data, 0, ggml_nbytes(t));
    }
    f(xq_layers{layer});
    for (const auto & [t, data] : arrays) {
        ggml_backend_tensor_get(t, data, 0, ggml_nbytes(t));
    }
    return 0;
}

} // namespace

int xq_api_seal_tile(const xq_api_layer * a, int n_stream, int stream, int tile, int page, uint32_t cells) {
    return on_tensors(*a, n_stream, [&](const xq_layers & l) { xq_seal_tile(l, stream, {tile, page, cells}); });
}

int xq_api_read_back(const xq_api_layer * a, int n_stream, int stream, int tile, int page) {
    return on_tensors(*a, n_stream, [&](const xq_layers & l) { xq_read_back_tile(l, stream, tile, page); });
}
