// The shaders as pipelines of a device, made when they are first dispatched.
#pragma once

#include "ggml-vulkan-common.h"

#include "graph/node.h"
#include "kernels/gpu/vulkan/arguments.h"

enum xq_shader { XQ_SHADER_ATTEND_1, XQ_SHADER_ATTEND_2, XQ_SHADER_ATTEND_4, XQ_SHADER_ATTEND_8, XQ_SHADER_COMBINE, XQ_SHADER_STORE, XQ_SHADER_SEAL };

// What the kernels ask of a device, or null where it has that.
const char * xq_vulkan_lacks(const vk_device & device);

// Bytes of shared memory that the shaders' parts in xq_memory may take.
size_t xq_vulkan_shared_limit(const vk_device & device);

// Bytes that sealing takes there.
size_t xq_vulkan_seal_bytes(const xq_node_layer & layer);

struct xq_dispatch {
    xq_shader shader;
    size_t shared;                   // bytes
    std::vector<uint32_t> constants; // from constant 1 on
    const void * push;
    uint32_t push_bytes;
    std::array<uint32_t, 3> groups;
};
void xq_vulkan_dispatch(const vk_device & device, vk_context & subctx, const xq_dispatch & d);
