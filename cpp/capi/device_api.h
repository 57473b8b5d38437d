// kernels_api.h with a ggml device ("CUDA0") for an implementation: a layer is copied into the device's memory, the node of
// graph/nodes.h is computed there as llama.cpp would, and what it wrote is copied back. So it is for layers alone.
#pragma once

#include "capi/kernels_api.h"
#include "kernels/cpu/attend.h"

// The arrays of a layer as kernels take them.
xq_layer_view xq_api_view(const xq_api_layer & a);

// -1: no device of that name has packed kernels. -2: it does not take the layer, or failed.
int xq_device_seal_layer(const char * device, const xq_layer_view & view, const xq_api_layer & a);
int xq_device_attend(const char * device, const xq_layer_view & view, const xq_api_layer & a);
