// Packed contexts in threads of their own, two threads each, over one model: for ThreadSanitizer. Both do the same and
// must end with the same bits.
#include "dice.h"
#include "models.h"

#include "capi/xquant.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr int SEQUENCES = 2, STEPS = 25;

[[noreturn]] void fail(const std::string & why) {
    std::fprintf(stderr, "%s\n", why.c_str());
    std::exit(1);
}

llama_context * open(llama_model * model, bool unified) {
    if (xq_config_set("k_bits=1.5,v_bits=2,window=32,sink=4,max_ubatch=32") != 0) { // of this thread
        fail(xq_last_error());
    }
    llama_context_params p = llama_context_default_params();
    p.n_ctx = 512;
    p.n_batch = 128;
    p.n_ubatch = 32;
    p.n_seq_max = SEQUENCES;
    p.n_threads = p.n_threads_batch = 2;
    p.kv_unified = unified;
    p.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    p.type_k = p.type_v = (ggml_type) xq_ggml_type();
    llama_context * ctx = llama_init_from_model(model, p);
    return ctx ? ctx : (fail(xq_last_error()), nullptr);
}

void step(llama_context * ctx, dice & d, int seq, int n) {
    const int from = llama_memory_seq_pos_max(llama_get_memory(ctx), seq) + 1;
    llama_batch b = llama_batch_init(n, 0, 1);
    for (int i = 0; i < n; ++i) {
        b.token[i] = d.pick(0, VOCABULARY - 1);
        b.pos[i] = from + i;
        b.n_seq_id[i] = 1;
        b.seq_id[i][0] = seq;
        b.logits[i] = i == n - 1;
    }
    b.n_tokens = n;
    if (llama_decode(ctx, b) != 0) {
        llama_memory_seq_rm(llama_get_memory(ctx), seq, -1, -1); // full
    }
    llama_batch_free(b);
}

std::string history(llama_model * model, bool unified) {
    llama_context * ctx = open(model, unified);
    std::string logits;
    dice d(1, 0);
    for (int i = 0; i < STEPS; ++i) {
        const int seq = d.pick(0, SEQUENCES - 1);
        step(ctx, d, seq, d.of({1, 1, 1, 5, 31, 33, 64, 100}));
        if (const float * x = llama_get_logits_ith(ctx, -1)) {
            logits.append((const char *) x, VOCABULARY*sizeof(float));
        }
        if (d.one_in(5)) {
            const int end = llama_memory_seq_pos_max(llama_get_memory(ctx), seq);
            llama_memory_seq_rm(llama_get_memory(ctx), seq, end - d.pick(0, 40), -1);
        }
        if (d.one_in(8)) {
            std::vector<uint8_t> state(llama_state_seq_get_size(ctx, seq));
            llama_state_seq_get_data(ctx, state.data(), state.size(), seq);
            state[state.size()/2] ^= (uint8_t) d.one_in(2); // refused, or not
            llama_state_seq_set_data(ctx, state.data(), state.size(), seq);
            logits += xq_last_error();
        }
        char text[1 << 14];
        if (xq_report(ctx, text, sizeof text) <= 0) {
            fail("no report");
        }
    }
    llama_free(ctx);
    return logits;
}

} // namespace

int main() {
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    {
        const model_ptr model = make_model("plain");
        for (const bool unified : {true, false}) {
            std::string results[2];
            std::vector<std::thread> threads;
            for (std::string & r : results) {
                threads.emplace_back([&r, &model, unified] { r = history(model.get(), unified); });
            }
            for (std::thread & t : threads) {
                t.join();
            }
            for (const std::string & r : results) {
                if (r.empty() || r != results[0]) {
                    fail("the same history in another thread gave other bits");
                }
            }
        }
    }
    llama_backend_free();
    std::printf("the same bits in every thread\n");
    return 0;
}
