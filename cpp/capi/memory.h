// What llama_context asks of its memory.
#pragma once

#include "llama.h"

#include <cstdint>
#include <vector>

struct llama_context;
struct llama_cparams;
struct llama_memory_i;
struct llama_memory_params;
struct llama_ubatch;
class llama_kv_cache;

// Before the memory is created, what a packed one must know of its context. Where all tokens of a batch see each other
// (no causal attention) or are pooled, a packed cache takes whole micro-batches of the context, however small
// config.max_ubatch is.
void xq_expect(const llama_memory_params & params, const llama_cparams & cparams);

// Once the memory is there. Otherwise micro-batches of a packed cache are at most config.max_ubatch tokens: pages for one are part
// of the cache. An eval callback is watched, for it may stop a graph half way.
void xq_attach(llama_memory_i * memory, llama_cparams & cparams);

// Is a batch refused whose tokens see each other and do not fit into one micro-batch of a packed cache? Logged, and in
// xq_last_error(). Causal attention may be switched off at any time.
bool xq_refuse_batch(llama_memory_i * memory, const llama_cparams & cparams, uint32_t n_tokens);

// Before a state is written or read: copies between the streams of a packed cache that wait for the next decode are carried
// out, or the cells would not fit what their tiles hold.
void xq_before_state(llama_context & ctx, llama_memory_i * memory);

// The same around reading one. A state has a part for each cache, and each checks its own: when one of them refuses,
// the sequences are left empty in all. seq_id -1: the whole context. With LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY the main
// cache has no part.
class xq_reading {
public:
    xq_reading(llama_context & ctx, llama_memory_i * memory, llama_seq_id seq_id, llama_state_seq_flags flags);
    ~xq_reading();

    xq_reading(const xq_reading &) = delete;
    xq_reading & operator=(const xq_reading &) = delete;

private:
    llama_memory_i * memory; // null: nothing to do
    llama_seq_id seq_id;
    int exceptions;
};

// No cells were found for a batch of so many tokens. True: a packed cache made room where its cells were not usable; try
// again. Nothing is done where f16 would have no room either.
bool xq_make_room(llama_context & ctx, llama_memory_i * memory, uint32_t n_tokens);

// Around the processing of a micro-batch. A graph that fails, or an exception on its way, leaves codes unwritten; unless
// confirm() was reached, the packed cache is then as it was before, without the micro-batch's tokens.
class xq_step {
public:
    xq_step(llama_context & ctx, llama_memory_i * memory, const llama_ubatch & ubatch);
    ~xq_step();
    void confirm();

    xq_step(const xq_step &) = delete;
    xq_step & operator=(const xq_step &) = delete;

private:
    void undo();

    llama_context        & ctx;
    llama_memory_i       * memory;
    const llama_ubatch   & ubatch;
    std::vector<llama_kv_cache *> caches; // the packed ones
    bool confirmed = false;
};
