// What ggml's Metal backend calls for nodes of ours (graph/node.h).
#pragma once

#include "ggml-metal-device.h"

#include <cstddef>

// Whether the node is ours, in a form that the kernels take, and its planes lie on this device. What is refused here must
// have been refused at load: ggml aborts on a node that no backend of its buffer takes.
bool xq_metal_supports(ggml_metal_device_t device, const ggml_tensor * node);

// Bytes that the node needs behind its result: partial results of attention.
size_t xq_metal_scratch(const ggml_tensor * node);

// Encodes the node's dispatches and the barriers between them; returns how many nodes that were.
//
// Upstream runs nodes side by side unless one writes what another reads or writes, by sources and results. Storing and
// sealing write sources too, pages and codes. That is safe because all of a layer's nodes have its metadata among their
// sources or as their result: what touches a layer's planes comes behind a barrier after what wrote them. A follower reads
// its leader's codes when it seals, behind the barrier that its own storing needs.
int xq_metal_encode(ggml_metal_device_t device, ggml_metal_encoder_t encoder, const ggml_tensor * node);

// Functions that libllama asks for by name, or null.
void * xq_metal_address(const char * name);
