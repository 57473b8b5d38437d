// A Metal device without Apple: ggml's C API of it (ggml-metal-device.h, ggml-metal-context.h), with our kernels on the
// emulator. It is stricter than the real one: see metal_device.cpp.
#pragma once

#include "kernels/gpu/emulated/emulator.h"
#include "kernels/gpu/emulated/half.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

// What is bound to a dispatch, by index.
struct xq_bound { void * at[31]; };

struct xq_fake_argument {
    int index;
    size_t size; // of what it points at; by value: of all of it
    bool by_value, writes;
};

struct xq_fake_kernel {
    std::string name;
    std::vector<xq_fake_argument> arguments;
    bool shared; // has threadgroup memory
    void (*run)(const xq_bound &);
};

// One source that the device can compile: the kernels of a generated file, which knows the length and hash of its text.
struct xq_fake_library {
    size_t length;
    uint32_t hash;
    std::vector<xq_fake_kernel> kernels;
    xq_fake_library(size_t length, uint32_t hash, std::vector<xq_fake_kernel> kernels);
};

// What the next device is like.
struct xq_fake_traits {
    bool apple7 = true, unified = false, compiles = true;
    size_t limit = 32*1024;
    int max_threads = 1024;
    std::string without; // a kernel that the compiler does not have
};
extern xq_fake_traits xq_fake;
