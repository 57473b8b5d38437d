// The compiled kernels of a Metal device.
#pragma once

#include "ggml-metal-device.h"
#include "kernels/gpu/metal/host.h"

#include <string>

enum xq_metal_kernel {
    XQ_METAL_ATTEND_1, XQ_METAL_ATTEND_2, XQ_METAL_ATTEND_4, XQ_METAL_ATTEND_8, // by query rows of a threadgroup
    XQ_METAL_COMBINE, XQ_METAL_STORE, XQ_METAL_SEAL,
    XQ_METAL_BATCH_64, XQ_METAL_BATCH_128, XQ_METAL_BATCH_256,                  // by head dim of values
    XQ_METAL_KERNELS,
};

struct xq_metal_kernels {
    ggml_metal_pipeline_with_params of[XQ_METAL_KERNELS];
    size_t limit;       // bytes of threadgroup memory
    std::string refusal; // what the device lacks, or ""
    bool batch = false;  // it has the kernels for many query rows; without them, the others do
};

// Compiles them when they are first asked for; any thread may ask.
const xq_metal_kernels & xq_metal_kernels_of(ggml_metal_device_t device);

// What the device would need to run the layer, or null. The text stays valid until the thread asks again.
const char * xq_metal_refusal(ggml_metal_device_t device, const xq_node_layer & layer);

// Bytes of threadgroup memory, in the multiples of 16 that Metal wants.
size_t xq_metal_attend_bytes(const xqg_layer & layer, int rows);
size_t xq_metal_seal_bytes(const xqg_layer & layer);
int xq_metal_rows(const xqg_layer & layer, int wanted, size_t limit);
