// From ggml nodes to dispatches: what a node's tensors mean to the kernels.
#include "kernels/gpu/vulkan/pipelines.h"

#include "kernels/gpu/vulkan/backend.h"

#include <climits>

namespace {

constexpr int MOST_GROUPS = 65535; // of a grid, on any device

uint64_t address_of(const ggml_backend_vk_context * ctx, const ggml_tensor * t) {
    vk_buffer buffer;
    size_t at = 0;
    if (ctx->device->uma) {
        ggml_vk_host_get(ctx->device, t->data, buffer, at);
    }
    if (!buffer) {
        buffer = ((const ggml_backend_vk_buffer_context *) t->buffer->context)->dev_buffer;
        at = vk_tensor_offset(t) + t->view_offs;
    }
    return buffer->bda_addr + at;
}

xq_vulkan_planes planes_of(const ggml_backend_vk_context * ctx, const xq_node_layer & l, const ggml_tensor * k_pages, const ggml_tensor * v_pages,
                 const ggml_tensor * k_codes, const ggml_tensor * v_codes, const ggml_tensor * meta) {
    const uint64_t bytes = address_of(ctx, meta);
    return {address_of(ctx, k_codes), address_of(ctx, v_codes), bytes, bytes + (uint64_t) l.v_meta_at, address_of(ctx, k_pages),
            address_of(ctx, v_pages)};
}

bool stores(const xq_node & n) { return n.kind == XQ_NODE_STORE || n.kind == XQ_NODE_STORE_AND_SEAL; }
bool seals(const xq_node & n)  { return n.kind == XQ_NODE_SEAL || n.kind == XQ_NODE_STORE_AND_SEAL; }

int stride(size_t bytes, size_t size) {
    GGML_ASSERT(bytes/size <= INT_MAX);
    return (int) (bytes/size);
}

std::array<uint32_t, 3> groups_of(const xq_grid & g) {
    GGML_ASSERT(g.x <= MOST_GROUPS && g.y <= MOST_GROUPS && g.z <= MOST_GROUPS);
    return {(uint32_t) g.x, (uint32_t) g.y, (uint32_t) g.z};
}

// ---- attention ----

// Most query rows of a block. A software device takes 17 s to compile the shader for one row and two minutes for eight.
int most_rows(const vk_device & device) {
    static const char * text = getenv("XQUANT_VULKAN_ROWS"); // for tests
    return text ? std::atoi(text) : device->properties.deviceType == vk::PhysicalDeviceType::eCpu ? 1 : 8;
}

void attend_slice(ggml_backend_vk_context * ctx, vk_context & subctx, const xq_node & n, const xq_attend_push & push, int n_head) {
    const xq_node_layer & l = *n.layer;
    const int all = push.n_tokens/push.n_stream*(n_head/l.n_head_kv);
    const int rows = xq_vulkan_rows(l, all, most_rows(ctx->device), xq_vulkan_shared_limit(ctx->device));
    xq_dispatch d{};
    d.shader = rows == 1 ? XQ_SHADER_ATTEND_1 : rows == 2 ? XQ_SHADER_ATTEND_2 : rows == 4 ? XQ_SHADER_ATTEND_4 : XQ_SHADER_ATTEND_8;
    d.shared = xq_vulkan_attend_bytes(l, rows);
    d.constants = xq_vulkan_attend_constants(l, n_head, n.scale, n.softcap, n.max_bias);
    d.push = &push;
    d.push_bytes = sizeof(push);
    d.groups = groups_of(xqg_attend_grid(push.n_parts, l.n_head_kv, push.n_stream, all, rows, d.shared));
    xq_vulkan_dispatch(ctx->device, subctx, d);
}

void combine(ggml_backend_vk_context * ctx, vk_context & subctx, const xq_combine_push & push) {
    xq_dispatch d{};
    d.shader = XQ_SHADER_COMBINE;
    d.push = &push;
    d.push_bytes = sizeof(push);
    d.groups = groups_of({push.n_tokens*push.n_head, 1, 1, 0, 0});
    xq_vulkan_dispatch(ctx->device, subctx, d);
}

// The backend's scratch for split attention, of at least so many floats.
uint64_t scratch_of(ggml_backend_vk_context * ctx, vk_context & subctx, size_t floats) {
    if (ctx->prealloc_size_split_k < floats*sizeof(float)) {
        ctx->prealloc_size_split_k = floats*sizeof(float);
        ggml_vk_preallocate_buffers(ctx, subctx);
    }
    if (ctx->prealloc_split_k_need_sync) {
        ggml_vk_sync_buffers(ctx, subctx);
    }
    return ctx->prealloc_split_k->bda_addr;
}

// Partial results of a whole micro-batch could be a large part of what packing saves. So they are computed and folded
// for as many tokens at a time as have room in XQG_MOST_PARTS; a token's result does not depend on that.
void attend(ggml_backend_vk_context * ctx, vk_context & subctx, const ggml_tensor * dst, const xq_node & n) {
    const auto & src = dst->src;
    const xq_node_layer & l = *n.layer;
    const ggml_tensor * q = src[XQ_A_Q], * mask = src[XQ_A_MASK], * sinks = src[XQ_A_SINKS];
    const int n_head = (int) q->ne[1];
    xq_attend_push push{};
    push.p = planes_of(ctx, l, src[XQ_A_K_PAGES], src[XQ_A_V_PAGES], src[XQ_A_K_CODES], src[XQ_A_V_CODES], src[XQ_A_META]);
    push.q = address_of(ctx, q);
    push.mask  = address_of(ctx, mask);
    push.table = address_of(ctx, src[XQ_A_TABLE]);
    push.q_token = stride(q->nb[2], sizeof(float));
    push.q_head  = stride(q->nb[1], sizeof(float));
    push.mask_token  = stride(mask->nb[1], sizeof(uint16_t));
    push.mask_stream = stride(mask->nb[3], sizeof(uint16_t));
    push.n_tokens = push.table_tokens = (int) q->ne[2];
    push.n_stream = (int) mask->ne[3];
    push.n_kv = (int) mask->ne[0];
    if (dst->ne[3] > 1) { // the graph holds the parts, one for every chunk, as on the CPU
        push.span = 1;
        push.n_parts = (int) dst->ne[3];
        push.result = address_of(ctx, dst);
        return attend_slice(ctx, subctx, n, push, n_head);
    }
    push.span = xqg_span(push.n_kv);
    push.n_parts = (xqg_chunks(push.n_kv) + push.span - 1)/push.span;
    const int slice = std::min(xqg_slice(push.n_tokens, push.n_parts, n_head, l.dv), MOST_GROUPS/n_head);
    const uint64_t scratch = scratch_of(ctx, subctx, (size_t) slice*push.n_parts*n_head*(l.dv + 2));
    const uint64_t out = address_of(ctx, dst);

    // Streams one after the other only where their tokens do not fit together.
    const xq_attend_push whole = push;
    const bool apart = slice < whole.n_tokens;
    const int n_stream = apart ? whole.n_stream : 1, of_stream = whole.n_tokens/n_stream;
    for (int s = 0; s < n_stream; ++s) {
        for (int first = 0; first < of_stream; first += slice) {
            push.first_stream = s;
            push.first_token  = s*of_stream + first;
            push.n_tokens = std::min(slice, of_stream - first);
            push.n_stream = apart ? 1 : whole.n_stream;
            push.q    = whole.q + sizeof(float)*(uint64_t) push.first_token*whole.q_token;
            push.mask = whole.mask + sizeof(uint16_t)*((uint64_t) s*whole.mask_stream + (uint64_t) first*whole.mask_token);
            push.result = scratch;
            if (ctx->prealloc_split_k_need_sync) {
                ggml_vk_sync_buffers(ctx, subctx);
            }
            attend_slice(ctx, subctx, n, push, n_head);
            ggml_vk_sync_buffers(ctx, subctx);
            xq_combine_push c = {scratch, sinks ? address_of(ctx, sinks) : 0, out + sizeof(float)*(uint64_t) push.first_token*n_head*l.dv, l.dv,
                              l.v.rot, n_head, push.n_tokens, push.n_parts, sinks != nullptr};
            combine(ctx, subctx, c);
            ctx->prealloc_split_k_need_sync = true;
        }
    }
}

void combine_parts(ggml_backend_vk_context * ctx, vk_context & subctx, const ggml_tensor * dst, const xq_node & n) {
    const ggml_tensor * parts = dst->src[XQ_C_PARTS], * sinks = dst->src[XQ_C_SINKS];
    combine(ctx, subctx, {address_of(ctx, parts), sinks ? address_of(ctx, sinks) : 0, address_of(ctx, dst), (int32_t) dst->ne[0], n.layer->v.rot,
                          (int32_t) dst->ne[1], (int32_t) dst->ne[2], (int32_t) parts->ne[3], sinks != nullptr});
}

// ---- storing and sealing ----

void store_and_seal(ggml_backend_vk_context * ctx, vk_context & subctx, const ggml_tensor * dst, const xq_node & n) {
    const auto & src = dst->src;
    const xq_node_layer & l = *n.layer;
    const xq_vulkan_planes p = planes_of(ctx, l, src[XQ_S_K_PAGES], src[XQ_S_V_PAGES], src[XQ_S_K_CODES], src[XQ_S_V_CODES], src[XQ_S_META]);
    // Pages and codes are no result of the node, so the backend does not wait for those who read or write them.
    const auto wait = [&] {
        ggml_vk_sync_buffers(ctx, subctx);
        ctx->unsynced_nodes_written.clear();
        ctx->unsynced_nodes_read.clear();
    };
    xq_dispatch d{};
    d.constants = xq_vulkan_layer_constants(l);
    wait();
    if (stores(n)) {
        const ggml_tensor * k = src[XQ_S_K], * v = src[XQ_S_V];
        const size_t f = sizeof(float);
        const xq_store_push push = {p, address_of(ctx, k), address_of(ctx, v), address_of(ctx, src[XQ_S_ROWS]), stride(k->nb[1], f),
                                 stride(k->nb[2], f), stride(v->nb[1], f), stride(v->nb[2], f), (int32_t) k->ne[2]};
        d.shader = XQ_SHADER_STORE;
        d.push = &push;
        d.push_bytes = sizeof(push);
        d.groups = groups_of({push.n_tokens, l.n_head_kv, 1, 0, 0});
        xq_vulkan_dispatch(ctx->device, subctx, d);
        wait();
    }
    if (seals(n)) {
        const xq_seal_push push = {p, address_of(ctx, src[XQ_S_TABLE]), XQG_SEAL_WALKERS};
        d.shader = XQ_SHADER_SEAL;
        d.shared = xq_vulkan_seal_bytes(l);
        d.push = &push;
        d.push_bytes = sizeof(push);
        d.groups = groups_of(xqg_seal_grid(l.k, l.v, l.n_head_kv, d.shared));
        xq_vulkan_dispatch(ctx->device, subctx, d);
        wait();
    }
}

// ---- what is taken ----

const char * refusal_of(const vk_device & device, const xq_node_layer & l) {
    if (const char * lacks = xq_vulkan_lacks(device)) {
        return lacks;
    }
    if (!xq_head_dim_fits(l.dk) || !xq_head_dim_fits(l.dv)) {
        return "head dims that are " XQ_HEAD_DIM_RULE;
    }
    if (std::max({l.k_code_stream, l.v_code_stream, l.meta_stream, l.page_stream, l.k_row, l.v_row}) > INT_MAX) {
        return "a layer of less than 2^31 bytes of metadata and words of codes for a sequence";
    }
    const size_t limit = xq_vulkan_shared_limit(device);
    return xq_vulkan_attend_bytes(l, 1) <= limit && xq_vulkan_seal_bytes(l) <= limit
        ? nullptr : "a layer whose blocks fit into the device's shared memory";
}

// What libllama asks before it puts a layer on some device of the backend.
const char * refusal(const xq_node_layer * l) {
    for (int i = 0; i < ggml_backend_vk_get_device_count(); ++i) {
        if (const char * reason = refusal_of(ggml_vk_get_device((size_t) i), *l)) {
            return reason;
        }
    }
    return nullptr;
}

bool on(const ggml_tensor * plane, const vk_device & device) {
    const ggml_backend_buffer_t buffer = !plane ? nullptr : plane->view_src ? plane->view_src->buffer : plane->buffer;
    return buffer && ggml_backend_buffer_is_vk(buffer) && ((ggml_backend_vk_buffer_context *) buffer->context)->device.lock() == device;
}

bool rows_of_floats(const ggml_tensor * t) {
    return t && t->type == GGML_TYPE_F32 && t->nb[0] == sizeof(float) && t->nb[1] % sizeof(float) == 0 && t->nb[2] % sizeof(float) == 0;
}

bool is_table(const ggml_tensor * t) { return t && t->type == GGML_TYPE_I32 && ggml_is_contiguous(t); }

} // namespace

bool xq_vulkan_supports(const vk_device & device, const ggml_tensor * node) {
    xq_node n;
    if (!xq_node_read(node, n) || refusal_of(device, *n.layer)) {
        return false;
    }
    const auto & src = node->src;
    switch (n.kind) {
        case XQ_NODE_STORE:
        case XQ_NODE_SEAL:
        case XQ_NODE_STORE_AND_SEAL:
            return on(src[XQ_S_K_PAGES], device) && on(src[XQ_S_V_PAGES], device) && on(src[XQ_S_K_CODES], device) && on(src[XQ_S_V_CODES], device) &&
                   is_table(src[XQ_S_TABLE]) && rows_of_floats(src[XQ_S_K]) && rows_of_floats(src[XQ_S_V]) && src[XQ_S_ROWS]->type == GGML_TYPE_I64;
        case XQ_NODE_ATTEND:
            return on(src[XQ_A_K_PAGES], device) && on(src[XQ_A_V_PAGES], device) && on(src[XQ_A_K_CODES], device) && on(src[XQ_A_V_CODES], device) &&
                   is_table(src[XQ_A_TABLE]) && rows_of_floats(src[XQ_A_Q]) && src[XQ_A_MASK]->type == GGML_TYPE_F16 &&
                   src[XQ_A_MASK]->nb[0] == sizeof(uint16_t) && node->src[XQ_A_Q]->ne[1] <= MOST_GROUPS;
        case XQ_NODE_COMBINE:
            return ggml_is_contiguous(src[XQ_C_PARTS]) && node->ne[1]*node->ne[2] <= MOST_GROUPS;
        default:
            return false;
    }
}

void xq_vulkan_compute(ggml_backend_vk_context * ctx, vk_context & subctx, const ggml_tensor * node) {
    xq_node n;
    GGML_ASSERT(xq_node_read(node, n));
    if (n.kind == XQ_NODE_ATTEND) {
        attend(ctx, subctx, node, n);
    } else if (n.kind == XQ_NODE_COMBINE) {
        combine_parts(ctx, subctx, node, n);
    } else {
        store_and_seal(ctx, subctx, node, n);
    }
}

void * xq_vulkan_address(ggml_backend_reg_t, const char * name) {
    const xq_layer_check check = refusal;
    return std::strcmp(name, XQ_LAYER_CHECK) == 0 ? (void *) check : nullptr;
}
