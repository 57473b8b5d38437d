// Runs kernel bodies on the host as a GPU would: blocks, threads that meet at barriers and shuffles, shared memory.
//
// Threads are fibers that run one at a time from one meeting to the next, in an order drawn from a seed. So a missing
// barrier makes some thread read what another has not written yet, and the same seed shows the same failure again.
// Threads that cannot meet (a warp split at a shuffle, a barrier in a branch) end the launch with an error.
#pragma once

#include "kernels/gpu/grid.h"

#include <cstddef>
#include <cstdint>

namespace xq_emulator {

constexpr int WARP = 32;

// Runs body(context) for every thread of every block; false: threads could not meet, last_error() says where.
bool launch(const xq_grid & grid, void (*body)(void *), void * context);

template <class F> bool launch(const xq_grid & grid, F && f) {
    return launch(grid, [](void * context) { (*static_cast<F *>(context))(); }, &f);
}

const char * last_error();
void clear_error();
void set_seed(uint32_t seed);

// ---- called by the threads ----

int thread_index();
int block_index(int axis);
void * shared_memory();

void barrier(int line);
// Meets the warp; returns what `lane` brought.
uint32_t exchange(uint32_t mine, int lane, int line);
// Meets the warp; bit l of the result is lane l's.
uint32_t ballot(bool mine, int line);

} // namespace xq_emulator
