// f16 to f32 and back, to the nearest, ties to even.
#pragma once

#include <cstdint>
#include <cstring>

namespace xq_emulator {

inline float from_half(uint16_t h) {
    const uint32_t sign = (uint32_t) (h & 0x8000) << 16, rest = h & 0x7FFF;
    uint32_t bits;
    float f;
    if (rest >= 0x7C00) {
        bits = sign | 0x7F800000u | (rest & 0x3FF) << 13;
    } else if (rest >= 0x400) {
        bits = sign | ((rest << 13) + 0x38000000u);
    } else {
        f = (float) rest * 0x1p-24f;
        return sign ? -f : f;
    }
    std::memcpy(&f, &bits, 4);
    return f;
}

inline uint16_t to_half(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const uint16_t sign = (uint16_t) (bits >> 16 & 0x8000);
    const uint32_t size = bits & 0x7FFFFFFFu;
    if (size > 0x7F800000u) {
        return sign | 0x7E00;
    }
    if (size >= 0x477FF000u) {
        return sign | 0x7C00;
    }
    if (size >= 0x38800000u) {
        const uint32_t odd = size >> 13 & 1;
        return sign | (uint16_t) ((size - 0x38000000u + 0xFFF + odd) >> 13);
    }
    float f;
    std::memcpy(&f, &size, 4);
    f += 0.5f; // the sum's last bit is that of a subnormal f16
    std::memcpy(&bits, &f, 4);
    return sign | (uint16_t) (bits - 0x3F000000u);
}

} // namespace xq_emulator
