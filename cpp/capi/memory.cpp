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
#include <string>

namespace {

xq_cache * packed(const llama_kv_cache * kv) { return kv ? kv->get_xq() : nullptr; }

std::vector<llama_kv_cache *> all_packed(llama_memory_i * memory) {
    const xq_caches c = xq_caches_of(memory);
    std::vector<llama_kv_cache *> list;
    for (llama_kv_cache * kv : {c.main, c.window}) {
        if (packed(kv)) {
            list.push_back(kv);
        }
    }
    return list;
}

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

void xq_expect(const llama_memory_params & params, const llama_cparams & cparams) {
    const bool pooled = cparams.pooling_type != LLAMA_POOLING_TYPE_NONE;
    xq_cache::expect({cparams.n_ubatch, pooled || !cparams.causal_attn, params.swa_full});
}

bool xq_refuse_batch(llama_memory_i * memory, const llama_cparams & cparams, uint32_t n_tokens) {
    if (!packed(xq_caches_of(memory).main)) {
        return false;
    }
    xq_set_error("");
    if (cparams.causal_attn || n_tokens <= cparams.n_ubatch) {
        return false;
    }
    const std::string n = std::to_string(n_tokens);
    xq_set_error("xquant: tokens that see each other (causal attention is off) go into one micro-batch; got " + n +
                 " tokens and micro-batches of " + std::to_string(cparams.n_ubatch) + "; use max_ubatch and n_ubatch of at least " + n +
                 ", create the context with causal attention off, or use kv=\"f16\"");
    LLAMA_LOG_ERROR("%s\n", xq_error().c_str());
    return true;
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

xq_reading::xq_reading(llama_context & ctx, llama_memory_i * memory, llama_seq_id seq_id, llama_state_seq_flags flags)
    : memory(all_packed(memory).empty() || (flags & LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY) ? nullptr : memory),
      seq_id(seq_id), exceptions(std::uncaught_exceptions()) {
    xq_before_state(ctx, memory);
}

xq_reading::~xq_reading() {
    if (!memory || std::uncaught_exceptions() == exceptions) {
        return;
    }
    if (seq_id < 0) {
        memory->clear(false);
    } else {
        memory->seq_rm(seq_id, -1, -1);
    }
}

bool xq_make_room(llama_context & ctx, llama_memory_i * memory, uint32_t n_tokens) {
    const auto caches = all_packed(memory);
    if (caches.empty()) {
        return false;
    }
    llama_kv_cache * kv = caches[0]; // the main one, which has all tokens
    uint32_t unused = 0;
    for (uint32_t s = 0; s < kv->get_n_stream(); ++s) {
        unused += kv->get_xq_cells(s).size() - kv->get_xq_cells(s).get_used();
    }
    if (n_tokens > unused) {
        return false;
    }
    ctx.synchronize();
    bool made = false;
    for (llama_kv_cache * of : caches) {
        for (uint32_t s = 0; s < of->get_n_stream(); ++s) {
            made = packed(of)->make_room(of->get_xq_cells(s), s) || made;
            of->xq_search_from_first(s);
        }
    }
    return made;
}

xq_step::xq_step(llama_context & ctx, llama_memory_i * memory, const llama_ubatch & ubatch)
    : ctx(ctx), memory(memory), ubatch(ubatch), caches(all_packed(memory)) {
    for (llama_kv_cache * kv : caches) {
        kv->get_xq()->begin_step();
    }
}

void xq_step::confirm() {
    if (!caches.empty() && caches[0]->get_xq()->watch.stopped) { // the main cache's, which is first
        ctx.synchronize();
        for (llama_kv_cache * kv : caches) {
            kv->get_xq()->finish_seals();
        }
    }
    confirmed = true;
}

xq_step::~xq_step() {
    if (caches.empty() || confirmed) {
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
    for (llama_kv_cache * kv : caches) {
        kv->get_xq()->undo_step();
    }
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
    for (llama_kv_cache * kv : caches) {
        for (uint32_t s = 0; s < kv->get_n_stream(); ++s) {
            kv->get_xq()->settle(s, kv->get_xq_cells(s));
        }
    }
}
