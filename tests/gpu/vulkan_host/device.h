// A Vulkan device with plain Vulkan 1.2: one queue, one buffer that the host sees, the shaders of the kernels.
#pragma once

#include <cstddef>
#include <cstdint>

enum xq_shader { XQ_ATTEND_1, XQ_ATTEND_2, XQ_ATTEND_4, XQ_ATTEND_8, XQ_COMBINE, XQ_STORE, XQ_SEAL, XQ_SEAL_ONE, XQ_UNPACK_ONE, XQ_SHADERS };

struct xq_dispatch {
    uint32_t shader, groups[3];
    uint32_t push_bytes, used; // used: bytes of the buffer that the shader may touch, from the first on
    uint8_t push[128];
};

// Constants of a layer stand at the start of the buffer, in the order of their numbers, and not in the pipelines: a software
// device takes up to minutes to compile one, and every test has a layer of its own. Behind them, for shared.glsl: words of shared
// memory that are the shader's; whether it has touched others. And the deliberate defect that is on.
constexpr size_t XQ_CONSTANTS = 64, XQ_MUTANT = 61, XQ_USED = 62, XQ_OVERRUN = 63;

// Takes the first device that has what the kernels ask for; null, or what went wrong, of which XQ_NO_DEVICE is no fault.
#define XQ_NO_DEVICE "no Vulkan device with buffer addresses, 64-bit integers, 8-bit and 16-bit storage and 32 KiB of shared memory"
const char * xq_device_open(size_t bytes);
const char * xq_device_name();
uint64_t xq_device_address();
uint8_t * xq_device_memory();
// Null, or which call failed.
const char * xq_device_run(const xq_dispatch & d);
