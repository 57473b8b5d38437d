// The emulator against itself: what it must let pass, what it must report, and its f16.
#include "kernels/gpu/emulated/emulator.h"
#include "kernels/gpu/emulated/half.h"

#include "check.h"
#include "ggml.h" // the plain conversions of tests/neon/stub

#include <set>
#include <string>

using namespace xq_emulator;

namespace {

constexpr int N = 128;

// Every thread writes, all meet, every thread reads its opposite's. Without the barrier some read too early.
uint32_t exchanged(uint32_t seed, bool meet) {
    set_seed(seed);
    uint32_t late = 0;
    launch({3, 1, 1, N, N*sizeof(uint32_t)}, [&] {
        uint32_t * memory = (uint32_t *) shared_memory();
        const int self = thread_index();
        memory[self] = (uint32_t) self;
        if (meet) {
            barrier(1);
        }
        late += memory[N - 1 - self] != (uint32_t) (N - 1 - self);
    });
    return late;
}

std::string error_of(void (*body)()) {
    clear_error();
    const bool fine = launch({1, 1, 1, N, 0}, [&] { body(); });
    const std::string error = last_error();
    CHECK(fine == error.empty());
    clear_error();
    return error;
}

void test_meetings() {
    for (uint32_t seed = 1; seed < 10; ++seed) {
        CHECK(exchanged(seed, true) == 0);
        CHECK(exchanged(seed, false) > 0);
    }
    std::set<uint32_t> sums;
    launch({1, 1, 1, N, 0}, [&] {
        uint32_t sum = (uint32_t) thread_index() % 32;
        for (int d = 16; d > 0; d /= 2) {
            sum += exchange(sum, (thread_index() & 31) ^ d, 1);
        }
        sums.insert(sum);
        CHECK(ballot((thread_index() & 31) < 3, 2) == 7);
    });
    CHECK(sums.size() == 1 && *sums.begin() == 31*32/2);
}

void test_threads_that_cannot_meet() {
    CHECK(error_of([] { barrier(1); exchange(0, 0, 2); }).empty());
    CHECK(!error_of([] { if (thread_index() % 2) { exchange(0, 0, 1); } }).empty());           // half a warp
    CHECK(!error_of([] { exchange(0, 0, thread_index() % 2 ? 1 : 2); }).empty());              // two shuffles
    CHECK(!error_of([] { if (thread_index() < 64) { barrier(1); } }).empty());                 // half a block
    CHECK(!error_of([] { barrier(thread_index() < 64 ? 1 : 2); }).empty());                    // two barriers
    CHECK(!error_of([] { if (thread_index() == 5) { barrier(1); } else { exchange(0, 0, 2); } }).empty());
    CHECK(error_of([] { barrier(1); }).empty()); // and it goes on after them
}

void test_memory_is_poisoned() {
    launch({2, 1, 1, 32, 64}, [] {
        const float * memory = (const float *) shared_memory();
        CHECK(memory[thread_index() % 16] != memory[thread_index() % 16]); // NaN, in every block
        exchange(0, 0, 1);
        ((float *) shared_memory())[thread_index() % 16] = 1.0f;
    });
}

void test_half() {
    for (uint32_t h = 0; h < 0x10000; ++h) {
        const float x = from_half((uint16_t) h), want = ggml_fp16_to_fp32((uint16_t) h);
        CHECK(std::memcmp(&x, &want, 4) == 0 || (x != x && want != want));
        for (const float y : {x, std::nextafter(x, 1e9f), std::nextafter(x, -1e9f), x*1.00048828125f, x + 0x1p-25f, x*3.0f}) {
            CHECK(to_half(y) == ggml_fp32_to_fp16(y) || y != y);
        }
    }
}

} // namespace

int main() {
    test_meetings();
    test_threads_that_cannot_meet();
    test_memory_is_poisoned();
    test_half();
    return check_report();
}
