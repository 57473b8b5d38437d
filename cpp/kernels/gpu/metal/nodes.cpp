// From ggml nodes to dispatches.
#include "kernels/gpu/metal/backend.h"

#include "kernels/gpu/metal/kernels.h"

#include "ggml-backend-impl.h"
#include "ggml-metal.h"

#include <cstring>

namespace {

// ---- buffers: an address of a tensor is a Metal buffer and an offset ----

ggml_metal_buffer_id buffer_of(const ggml_tensor * t) {
    const ggml_backend_buffer_t buffer = t->view_src ? t->view_src->buffer : t->buffer;
    return ggml_metal_buffer_get_id((ggml_metal_buffer_t) buffer->context, t);
}

ggml_metal_buffer_id behind(ggml_metal_buffer_id id, size_t bytes) {
    id.offs += bytes;
    return id;
}

struct planes { ggml_metal_buffer_id k_codes, v_codes, k_meta, v_meta, k_pages, v_pages; };

planes planes_of(const xq_node_layer & n, const ggml_tensor * k_pages, const ggml_tensor * v_pages, const ggml_tensor * k_codes,
                 const ggml_tensor * v_codes, const ggml_tensor * meta) {
    const ggml_metal_buffer_id bytes = buffer_of(meta);
    return {buffer_of(k_codes), buffer_of(v_codes), bytes, behind(bytes, (size_t) n.v_meta_at), buffer_of(k_pages), buffer_of(v_pages)};
}

// ---- one dispatch: arguments at 0, then buffers, in the order of the kernel's parameters ----

class dispatch {
public:
    template <class Args>
    dispatch(ggml_metal_encoder_t encoder, ggml_metal_pipeline_with_params pipeline, Args args) : encoder(encoder) {
        ggml_metal_encoder_set_pipeline(encoder, pipeline);
        ggml_metal_encoder_set_bytes(encoder, &args, sizeof(args), 0);
    }
    dispatch & on(const planes & p) { return on(p.k_codes).on(p.v_codes).on(p.k_meta).on(p.v_meta).on(p.k_pages).on(p.v_pages); }
    dispatch & on(ggml_metal_buffer_id id) {
        ggml_metal_encoder_set_buffer(encoder, id, next++);
        return *this;
    }
    dispatch & on(const ggml_tensor * t) { return on(buffer_of(t)); }
    void over(const xq_grid & grid) {
        if (grid.shared > 0) {
            ggml_metal_encoder_set_threadgroup_memory_size(encoder, grid.shared, 0);
        }
        ggml_metal_encoder_dispatch_threadgroups(encoder, grid.x, grid.y, grid.z, grid.threads, 1, 1);
    }

private:
    ggml_metal_encoder_t encoder;
    int next = 1;
};

// Where a node's dispatches go.
struct work {
    const xq_metal_kernels & kernels;
    ggml_metal_encoder_t encoder;

    template <class Args> dispatch begin(xq_metal_kernel kernel, const Args & args) const { return dispatch(encoder, kernels.of[kernel], args); }
    void barrier() const { ggml_metal_encoder_memory_barrier(encoder); }
};

// ---- attention ----

// The body that a micro-batch gets, and its grid.
struct body { xq_metal_kernel kernel; xq_grid grid; };

body body_of(const xqg_attend_args & a, bool batch, size_t limit) {
    const int all = a.n_tokens/a.n_stream*(a.n_head/a.layer.n_head_kv), dk = a.layer.dk, dv = a.layer.dv;
    if (batch) {
        return {dv <= 64 ? XQ_METAL_BATCH_64 : dv <= 128 ? XQ_METAL_BATCH_128 : XQ_METAL_BATCH_256,
                xqg_batch_grid(a.n_parts, a.layer.n_head_kv, a.n_stream, all, dk, dv, XQG_BATCH_MEMORY_METAL)};
    }
    const int rows = xq_metal_rows(a.layer, all, limit);
    return {rows == 1 ? XQ_METAL_ATTEND_1 : rows == 2 ? XQ_METAL_ATTEND_2 : rows == 4 ? XQ_METAL_ATTEND_4 : XQ_METAL_ATTEND_8,
            xqg_attend_grid(a.n_parts, a.layer.n_head_kv, a.n_stream, all, rows, xq_metal_attend_bytes(a.layer, rows))};
}

void attend_part(const work & w, const xqg_attend_args & a, bool batch, const planes & p, ggml_metal_buffer_id q, ggml_metal_buffer_id mask,
                 ggml_metal_buffer_id table, ggml_metal_buffer_id out) {
    const body chosen = body_of(a, batch, w.kernels.limit);
    w.begin(chosen.kernel, a).on(p).on(q).on(mask).on(table).on(out).over(chosen.grid);
}

int batch_limit(const xq_metal_kernels & kernels) { return kernels.batch ? XQG_BATCH_MEMORY_METAL : 0; }

void combine_parts(const work & w, const xqg_combine_args & a, ggml_metal_buffer_id parts, const ggml_tensor * sinks, ggml_metal_buffer_id out) {
    // every parameter wants a buffer, also one that is not read
    w.begin(XQ_METAL_COMBINE, a).on(parts).on(sinks ? buffer_of(sinks) : parts).on(out).over({a.n_tokens*a.n_head, 1, 1, XQ_METAL_THREADS, 0});
}

// More than are used where blocks take more than one chunk, so that it grows with the context: scratch that was reserved
// for the longest then serves all.
int parts_at_most(const xqg_attend_args & a) {
    const int chunks = xqg_chunks(a.n_kv), most = 65; // of xqg_span, before it is at its end
    return chunks < most ? chunks : a.n_parts < most ? most : a.n_parts;
}

void attend(const work & w, const ggml_tensor * dst, const xq_node & n) {
    const auto & src = dst->src;
    const xqg_attention attention = xqg_attention_of(dst, n, batch_limit(w.kernels));
    const xqg_attend_args & whole = attention.a;
    const planes p = planes_of(*n.layer, src[XQ_A_K_PAGES], src[XQ_A_V_PAGES], src[XQ_A_K_CODES], src[XQ_A_V_CODES], src[XQ_A_META]);
    const ggml_metal_buffer_id q = buffer_of(src[XQ_A_Q]), mask = buffer_of(src[XQ_A_MASK]), table = buffer_of(src[XQ_A_TABLE]), out = buffer_of(dst);
    if (dst->ne[3] > 1) {
        return attend_part(w, whole, attention.batch, p, q, mask, table, out);
    }
    const ggml_metal_buffer_id scratch = behind(out, ggml_nbytes(dst));
    const int slice = xqg_slice(whole.n_tokens, whole.n_parts, whole.n_head, whole.layer.dv);
    // Streams one after the other only where their tokens do not fit together.
    const bool apart = slice < whole.n_tokens;
    const int n_stream = apart ? whole.n_stream : 1, of_stream = whole.n_tokens/n_stream;
    for (int s = 0; s < n_stream; ++s) {
        for (int first = 0; first < of_stream; first += slice) {
            xqg_attend_args a = whole;
            a.first_stream = s;
            a.first_token  = s*of_stream + first;
            a.n_tokens = of_stream - first < slice ? of_stream - first : slice;
            a.n_stream = apart ? 1 : whole.n_stream;
            if (a.first_token > 0) {
                w.barrier(); // the last slice's partial results are read until then
            }
            attend_part(w, a, attention.batch, p, behind(q, sizeof(float)*a.first_token*a.q_token),
                        behind(mask, sizeof(uint16_t)*(s*a.mask_stream + first*a.mask_token)), table, scratch);
            w.barrier(); // combining reads them
            combine_parts(w, {a.layer.dv, a.layer.v.rot, a.n_head, a.n_tokens, a.n_parts, src[XQ_A_SINKS] != nullptr}, scratch, src[XQ_A_SINKS],
                          behind(out, sizeof(float)*(size_t) a.first_token*a.n_head*a.layer.dv));
        }
    }
}

void combine(const work & w, const ggml_tensor * dst, const xq_node & n) {
    const ggml_tensor * parts = dst->src[XQ_C_PARTS], * sinks = dst->src[XQ_C_SINKS];
    combine_parts(w, {(int) dst->ne[0], n.layer->v.rot, (int) dst->ne[1], (int) dst->ne[2], (int) parts->ne[3], sinks != nullptr}, buffer_of(parts), sinks,
                  buffer_of(dst));
}

// ---- storing and sealing ----

void store_and_seal(const work & w, const ggml_tensor * dst, const xq_node & n) {
    const auto & src = dst->src;
    const planes p = planes_of(*n.layer, src[XQ_S_K_PAGES], src[XQ_S_V_PAGES], src[XQ_S_K_CODES], src[XQ_S_V_CODES], src[XQ_S_META]);
    if (xqg_stores(n)) {
        const xqg_store_args a = xqg_store_args_of(dst, n);
        w.begin(XQ_METAL_STORE, a).on(p).on(src[XQ_S_K]).on(src[XQ_S_V]).on(src[XQ_S_ROWS]).over({a.n_tokens, a.layer.n_head_kv, 1, XQ_METAL_THREADS, 0});
    }
    if (n.kind == XQ_NODE_STORE_AND_SEAL) {
        w.barrier(); // tiles that are full now are read by sealing
    }
    if (xqg_seals(n)) {
        const xqg_seal_args a = {xqg_layer_of(*n.layer), XQG_SEAL_WALKERS};
        const xq_grid grid = xqg_seal_grid(a.layer.k, a.layer.v, a.layer.n_head_kv, xq_metal_seal_bytes(a.layer));
        w.begin(XQ_METAL_SEAL, a).on(p).on(src[XQ_S_TABLE]).over(grid);
    }
}

// ---- load ----

// One layer may come to lie on any of the devices.
const char * layer_check(const xq_node_layer * layer) {
    const ggml_backend_reg_t reg = ggml_backend_metal_reg();
    for (size_t i = 0; i < ggml_backend_reg_dev_count(reg); ++i) {
        if (const char * reason = xq_metal_refusal((ggml_metal_device_t) ggml_backend_reg_dev_get(reg, i)->context, *layer)) {
            return reason;
        }
    }
    return nullptr;
}

} // namespace

bool xq_metal_supports(ggml_metal_device_t device, const ggml_tensor * node) {
    xq_node n;
    if (!xq_node_read(node, n) || xq_metal_refusal(device, *n.layer)) {
        return false;
    }
    return xqg_takes(node, n, [device](const ggml_tensor * plane) {
        const ggml_backend_dev_t at = plane && plane->buffer ? ggml_backend_buft_get_device(ggml_backend_buffer_get_type(plane->buffer)) : nullptr;
        return at && at->context == device;
    });
}

size_t xq_metal_scratch(const ggml_tensor * node) {
    xq_node n;
    if (!xq_node_read(node, n) || n.kind != XQ_NODE_ATTEND || node->ne[3] > 1) {
        return 0;
    }
    const xqg_attend_args a = xqg_attention_of(node, n, 0).a; // of the body with more parts
    const size_t token = sizeof(float)*parts_at_most(a)*a.n_head*(a.layer.dv + 2), all = token*a.n_tokens;
    return all < XQG_MOST_PARTS ? all : token < XQG_MOST_PARTS ? XQG_MOST_PARTS : token;
}

int xq_metal_encode(ggml_metal_device_t device, ggml_metal_encoder_t encoder, const ggml_tensor * node) {
    xq_node n;
    GGML_ASSERT(xq_node_read(node, n)); // the backend has asked whether it is supported
    const work w = {xq_metal_kernels_of(device), encoder};
    n.kind == XQ_NODE_ATTEND ? attend(w, node, n) : n.kind == XQ_NODE_COMBINE ? combine(w, node, n) : store_and_seal(w, node, n);
    return 1;
}

void * xq_metal_address(const char * name) {
    const xq_layer_check check = layer_check;
    return std::strcmp(name, XQ_LAYER_CHECK) == 0 ? (void *) check : nullptr;
}
