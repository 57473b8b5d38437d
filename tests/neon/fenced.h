// Random data, and arrays that end where the next page may not be touched.
#pragma once

#include "ggml.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

// n values whose last byte is the last of a page, before one that is neither readable nor writable.
template <class T> class fenced {
public:
    explicit fenced(size_t n, T value = T()) : n(n) {
        const size_t page = (size_t) sysconf(_SC_PAGESIZE), room = (n*sizeof(T) + page - 1)/page*page;
        bytes = room + page;
        base  = (char *) mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (base == MAP_FAILED || mprotect(base + room, page, PROT_NONE) != 0) {
            std::abort();
        }
        p = (T *) (base + room - n*sizeof(T));
        std::fill(p, p + n, value);
    }
    fenced(const fenced & other) : fenced(other.n) { std::copy(other.p, other.p + n, p); }
    fenced & operator=(const fenced & other) { // of the same size
        std::copy(other.p, other.p + n, p);
        return *this;
    }
    ~fenced() { munmap(base, bytes); }
    T * data() { return p; }
    const T * data() const { return p; }
    T & operator[](size_t i) { return p[i]; }
    const T & operator[](size_t i) const { return p[i]; }
    size_t size() const { return n; }
    bool operator==(const fenced & other) const { return n == other.n && std::equal(p, p + n, other.p); }

private:
    size_t n, bytes;
    char * base;
    T * p;
};

// The same numbers on every machine.
class dice {
public:
    explicit dice(uint64_t seed) : state(seed*0x9E3779B97F4A7C15ull + 0x1234567ull) { bits(); bits(); }
    uint32_t bits() {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return (uint32_t) (state*0x2545F4914F6CDD1Dull >> 32);
    }
    int below(int n) { return (int) ((uint64_t) bits()*n >> 32); }
    float uniform() { return (float) (bits() >> 8)*0x1p-24f; }
    float normal() { // nearly
        float sum = -6.0f;
        for (int i = 0; i < 12; ++i) {
            sum += uniform();
        }
        return sum;
    }

private:
    uint64_t state;
};

inline float as_f16(float x) { return ggml_fp16_to_fp32(ggml_fp32_to_fp16(x)); }

// Kinds of data as in tests/kernels/case.py; `channel` is what may be odd.
enum data_kind { NORMAL, OUTLIER, OFFSET, CONSTANT, EQUAL, HUGE_VALUES, TINY, SPREAD, NOT_FINITE, N_KINDS };
constexpr const char * KIND_NAMES[] = {"normal", "outlier", "offset", "constant", "equal", "huge", "tiny", "spread", "not finite"};

inline float value_of(dice & rng, int kind, int channel) {
    float x = rng.normal();
    switch (kind) {
        case OUTLIER:     x = channel == 3 ? 1000*x : x; break;
        case OFFSET:      x = channel == 3 ? 1000 + x : x; break;
        case CONSTANT:    x = channel % 2 == 0 ? 0.75f : x; break;
        case EQUAL:       x = -1.25f; break;
        case HUGE_VALUES: x = std::clamp(6000*x, -25000.0f, 25000.0f); break;
        case TINY:        x = 1e-6f*x; break;
        case SPREAD:      x = x*(float) (1 << (channel*7 % 13))*0x1p-6f; break;
        case NOT_FINITE:  x = rng.below(20) > 0 ? x : rng.below(2) ? std::numeric_limits<float>::quiet_NaN() : x*std::numeric_limits<float>::infinity(); break;
        default:          break;
    }
    return as_f16(x);
}
