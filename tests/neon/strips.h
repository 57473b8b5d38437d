// What the tests of strips, products and layers share: sides, data, and the counts that main prints.
#pragma once

#include "check.h"
#include "fenced.h"

#include "format/xq_rotate.h"
#include "kernels/cpu/kernels.h"

#include <cmath>
#include <limits>
#include <map>
#include <string>

constexpr float INF  = std::numeric_limits<float>::infinity();
constexpr float EPS  = std::numeric_limits<float>::epsilon();
constexpr int   DIMS[] = {32, 40, 64, 72, 80, 96, 128, 192, 256};
constexpr uint32_t ALL = 0xFFFFFFFFu;
constexpr uint32_t MASKS[] = {0x0000FFFF, 0x00FFFFFF, 0xFFFFFFFE, 0x80000000, 0x5A5A1234, 0};
constexpr float ETA[] = {0, 1.0f/6, 0.045f, 0, 0};

inline long cases = 0;
inline uint64_t digest = 0xcbf29ce484222325ull; // of everything that was sealed: the same on every machine
inline std::map<std::string, double> worst;     // NMSE by test

template <class T> void into_digest(const fenced<T> & a) {
    const auto * p = (const uint8_t *) a.data();
    for (size_t i = 0; i < a.size()*sizeof(T); ++i) {
        digest = (digest ^ p[i])*0x100000001b3ull;
    }
}

inline void near(const char * test, double error, double power, double budget) {
    const double nmse = power > 0 ? error/power : error == 0 ? 0.0 : (double) INF;
    worst[test] = std::max(worst[test], nmse);
    CHECK(nmse <= budget, test, "NMSE", nmse);
}

inline xq_side uniform_side(int rows, int bits, int meta) {
    xq_side s{};
    s.bits = bits; s.meta = meta; s.rows = rows; s.strips = 1; s.lanes_last = XQ_LANES; s.eta = ETA[bits];
    return s;
}
inline xq_side ranked_side(int rows, int words) {
    xq_side s = uniform_side(rows, 0, XQ_META_RANKED);
    s.words = words; s.eta = ETA[1]; s.eta2 = ETA[2];
    return s;
}
inline xq_side values_side(int dv, int bits, int meta, bool rotated) {
    xq_side s = uniform_side(XQ_TILE, bits, meta);
    s.strips = (dv + 31)/32;
    s.lanes_last = dv - 32*(s.strips - 1);
    s.rot = rotated ? xq_rotate_block(dv) : 0;
    return s;
}

// Rows of a strip are channels, or lanes are.
inline fenced<float> strip_of(dice & rng, int rows, int kind, bool lanes_are_channels = false) {
    fenced<float> x((size_t) rows*XQ_LANES);
    for (int i = 0; i < rows; ++i) {
        for (int l = 0; l < XQ_LANES; ++l) {
            x[i*XQ_LANES + l] = value_of(rng, kind, lanes_are_channels ? l : i);
        }
    }
    return x;
}

// Sums that are half way between two codes, or next to it.
inline fenced<float> ties_of(dice & rng, int rows, int bits) {
    fenced<float> x((size_t) rows*XQ_LANES);
    for (int i = 0; i < rows; ++i) {
        const float factor = i % 3 == 0 ? 1.0f : i % 3 == 1 ? 0.1f : 3.7f;
        for (int l = 0; l < XQ_LANES; ++l) {
            float v = l == 0 ? 0.0f : l == 1 ? (float) xq_code_max(bits) : 0.5f*(float) rng.below(2*xq_code_max(bits) + 1);
            v = l > 1 && i % 4 == 1 ? std::nextafter(v, INF) : l > 1 && i % 4 == 2 ? std::nextafter(v, -INF) : v;
            x[i*XQ_LANES + l] = v*factor;
        }
    }
    return x;
}

// test_strips.cpp: sealing, metadata and unpacking, byte for byte
void test_uniform(const xq_cpu_kernels & k);
void test_ranked(const xq_cpu_kernels & k);
void test_unbiased(const xq_cpu_kernels & k);
void test_metadata(const xq_cpu_kernels & k);

// test_products.cpp: the primitives of attention, one by one
void test_mac(const xq_cpu_kernels & k);
void test_rows(const xq_cpu_kernels & k);
void test_floats(const xq_cpu_kernels & k);

// test_layers.cpp: sealing and attention of a layer
void test_layers(const xq_cpu_kernels & k);
