// One decode step's attention over a long sealed context, layer by layer as a model does it: memory is cold.
#pragma once

#include "kernels/cpu/kernels.h"

#include <functional>

// SmolLM2's 30 layers, 3 KV heads of 64 channels, 3 query heads each; `tokens` of them sealed, in the form of `balanced`.
// Call it with an implementation for one step on one thread.
std::function<void(const xq_cpu_kernels &)> xq_attend_bench(int tokens, const xq_side & k, const xq_side & v);
