// What llama_context asks of its memory.
#pragma once

#include <cstdint>

struct llama_context;
struct llama_memory_i;

// Micro-batches of a packed cache are at most config.max_ubatch tokens: pages for one are part of the cache.
uint32_t xq_cap_ubatch(llama_memory_i * memory, uint32_t n_ubatch);

// Before a state is written or read: copies between the streams of a packed cache that wait for the next decode are carried
// out, or the cells would not fit what their tiles hold.
void xq_before_state(llama_context & ctx, llama_memory_i * memory);
