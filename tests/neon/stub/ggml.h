// The two functions of ggml that the kernels call, so that this test needs no llama.cpp tree.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

inline float ggml_fp16_to_fp32(uint16_t x) {
    const int exponent = x >> 10 & 31, mantissa = x & 1023;
    float size;
    if (exponent == 31) {
        size = mantissa ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
    } else {
        size = exponent == 0 ? std::ldexp((float) mantissa, -24) : std::ldexp((float) (1024 + mantissa), exponent - 25);
    }
    return x & 0x8000 ? -size : size;
}
inline uint16_t ggml_fp32_to_fp16(float x) {
    const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    const float size = std::fabs(x);
    if (!(size < 65520.0f)) {
        return sign | (size == size ? 0x7C00 : 0x7E00);
    }
    const int exponent = size < 0x1p-14f ? -14 : std::ilogb(size);
    return sign | (uint16_t) (((exponent + 14) << 10) + (int) std::nearbyint(std::ldexp(size, 10 - exponent)));
}
