// What ggml's Vulkan backend calls for nodes of ours (graph/node.h). Included behind the backend's own headers.
#pragma once

// Whether the node is ours, in a form that the kernels take, and its planes lie on this device. What is refused here must have
// been refused at load: ggml aborts on a node that no backend of its buffer takes.
bool xq_vulkan_supports(const vk_device & device, const ggml_tensor * node);

// Records the node's dispatches, and the barriers that the backend cannot know of: a node of ours writes more than its result.
void xq_vulkan_compute(ggml_backend_vk_context * ctx, vk_context & subctx, const ggml_tensor * node);

// Functions that libllama asks for by name, or null.
void * xq_vulkan_address(ggml_backend_reg_t reg, const char * name);
