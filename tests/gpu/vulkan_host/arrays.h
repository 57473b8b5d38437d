// The arrays of one dispatch in the device's memory, between margins of sentinels: what a shader writes outside the arrays that
// it is to write is an error.
#pragma once

#include "kernels/gpu/grid.h"

#include "child.h"

#include <cstring>
#include <vector>

inline uint32_t xq_mutant; // a number of vulkan_defects.txt

class xq_arrays {
  public:
    explicit xq_arrays(std::string & error) : error_(error), base_(xq_child_start(error)) {
        if (base_) {
            std::memset(xq_child_memory(), SENTINEL, used_);
        }
    }

    // The address of a copy; written: it goes back to where it came from.
    template <class T> uint64_t put(const T * from, size_t n) { return place((void *) from, n*sizeof(T), false); }
    template <class T> uint64_t take(T * from, size_t n) { return place(from, n*sizeof(T), true); }

    // grid.shared: bytes of xq_memory that are the shader's.
    template <class Push> void run(uint32_t shader, const Push & push, const xq_grid & grid, std::vector<uint32_t> constants = {}) {
        if (!base_ || !error_.empty()) {
            return;
        }
        constants.resize(XQ_CONSTANTS, 0);
        constants[XQ_MUTANT] = xq_mutant;
        constants[XQ_USED] = (uint32_t) ((grid.shared + 3)/4);
        uint8_t * m = xq_child_memory();
        std::memcpy(m, constants.data(), sizeof(uint32_t)*XQ_CONSTANTS);
        xq_dispatch d = {shader, {(uint32_t) grid.x, (uint32_t) grid.y, (uint32_t) grid.z}, sizeof(push), (uint32_t) used_, {}};
        static_assert(sizeof(push) <= sizeof(d.push), "what every device takes");
        std::memcpy(d.push, &push, sizeof(push));
        const std::vector<uint8_t> before(m, m + used_);
        if (xq_child_run(d, error_)) {
            look(before.data());
        }
    }

  private:
    static constexpr uint8_t SENTINEL = 0xA5;
    static constexpr size_t MARGIN = 256;
    struct array { void * host; size_t at, bytes; };

    std::string & error_;
    uint64_t base_;
    size_t used_ = XQ_CONSTANTS*sizeof(uint32_t) + MARGIN;
    std::vector<array> written_;

    uint64_t place(void * from, size_t bytes, bool written) {
        const size_t at = used_, end = (at + bytes + 2*MARGIN - 1)/MARGIN*MARGIN;
        if (!base_ || end > XQ_MEMORY) {
            error_ = error_.empty() ? "the arrays are too large" : error_;
            return 0;
        }
        uint8_t * m = xq_child_memory();
        std::memcpy(m + at, from, bytes);
        std::memset(m + at + bytes, SENTINEL, end - at - bytes);
        used_ = end;
        if (written) {
            written_.push_back({from, at, bytes});
        }
        return base_ + at;
    }

    void look(const uint8_t * before) {
        const uint8_t * after = xq_child_memory();
        size_t at = XQ_CONSTANTS*sizeof(uint32_t);
        if (((const uint32_t *) after)[XQ_OVERRUN]) {
            error_ = "a shader used more shared memory than the host reckons with";
        }
        written_.push_back({nullptr, used_, 0});
        for (const array & a : written_) {
            if (std::memcmp(before + at, after + at, a.at - at) != 0) {
                error_ = "a shader wrote where it must not";
            }
            if (a.bytes) {
                std::memcpy(a.host, after + a.at, a.bytes);
            }
            at = a.at + a.bytes;
        }
    }
};
