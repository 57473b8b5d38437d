#include "capi/memory.h"

#include "cache/cache.h"
#include "capi/caches.h"

#include "llama-context.h"
#include "llama-impl.h"
#include "llama-kv-cache.h"
#include "llama-kv-cache-iswa.h"
#include "llama-memory-hybrid.h"
#include "llama-memory-hybrid-iswa.h"

#include <algorithm>
#include <exception>
#include <map>

namespace {

xq_cache * packed(const llama_kv_cache * kv) { return kv ? kv->get_xq() : nullptr; }

bool watched_eval(ggml_tensor * t, bool ask, void * data) {
    auto & watch = *(xq_watch *) data;
    const bool answer = watch.call(t, ask, watch.data);
    watch.stopped = watch.stopped || (!ask && !answer); // ggml leaves out the rest, and reports success
    return answer;
}

} // namespace

xq_caches xq_caches_of(llama_memory_i * memory) {
    if (auto * kv = dynamic_cast<llama_kv_cache *>(memory)) {
        return {kv, nullptr};
    }
    if (auto * kv = dynamic_cast<llama_kv_cache_iswa *>(memory)) {
        return {kv->get_base(), kv->get_swa()};
    }
    if (auto * kv = dynamic_cast<llama_memory_hybrid *>(memory)) {
        return {kv->get_mem_attn(), nullptr};
    }
    if (auto * kv = dynamic_cast<llama_memory_hybrid_iswa *>(memory)) {
        return {kv->get_mem_attn()->get_base(), kv->get_mem_attn()->get_swa()};
    }
    return {};
}

void xq_attach(llama_memory_i * memory, llama_cparams & cparams) {
    xq_cache * xq = packed(xq_caches_of(memory).main);
    if (!xq) {
        return;
    }
    cparams.n_ubatch = std::min(cparams.n_ubatch, xq->max_ubatch());
    if (cparams.cb_eval) {
        xq->watch = {cparams.cb_eval, cparams.cb_eval_user_data, false};
        cparams.cb_eval           = watched_eval;
        cparams.cb_eval_user_data = &xq->watch;
    }
}

void xq_before_state(llama_context & ctx, llama_memory_i * memory) {
    if (packed(xq_caches_of(memory).main)) {
        ctx.memory_update(false);
    }
}

xq_step::xq_step(llama_context & ctx, llama_memory_i * memory, const llama_ubatch & ubatch)
    : ctx(ctx), memory(memory), ubatch(ubatch), kv(xq_caches_of(memory).main) {
    if (!packed(kv)) {
        kv = nullptr;
        return;
    }
    kv->get_xq()->begin_step();
}

void xq_step::confirm() {
    if (kv && kv->get_xq()->watch.stopped) {
        ctx.synchronize();
        kv->get_xq()->finish_seals();
    }
    confirmed = true;
}

xq_step::~xq_step() {
    if (!kv || confirmed) {
        return;
    }
    try {
        undo();
    } catch (const std::exception & e) { // may run while another exception is on its way
        LLAMA_LOG_ERROR("xquant: tokens of a failed batch could not be removed: %s\n", e.what());
    }
}

// llama.cpp removes the tokens itself where it is told of the failure, but not after an exception, and of tokens that
// belong to several sequences only the first one's.
void xq_step::undo() {
    ctx.synchronize();
    kv->get_xq()->undo_step();
    std::map<llama_seq_id, llama_pos> first;
    for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
        for (int32_t k = 0; k < ubatch.n_seq_id[i]; ++k) {
            const auto it = first.emplace(ubatch.seq_id[i][k], ubatch.pos[i]).first;
            it->second = std::min(it->second, ubatch.pos[i]);
        }
    }
    for (const auto & [seq, pos] : first) {
        memory->seq_rm(seq, pos, -1);
    }
    for (uint32_t s = 0; s < kv->get_n_stream(); ++s) {
        kv->get_xq()->settle(s, kv->get_cells((llama_seq_id) s));
    }
}
