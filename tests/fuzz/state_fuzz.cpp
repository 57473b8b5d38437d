// libFuzzer: bytes as the state of a sequence or of a context. What is refused leaves the cache empty; what is taken
// can be read on from. Most inputs get checksums that fit, or nothing behind them would be reached.
#include "models.h"

#include "cache/section.h"
#include "capi/xquant.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

extern "C" size_t LLVMFuzzerMutate(uint8_t * data, size_t size, size_t max_size);

namespace {

constexpr int SEQUENCES = 2, TOKENS = 70;

struct target {
    model_ptr model;
    llama_context * ctx = nullptr;

    target() {
        llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
        model = make_model("plain");
        xq_config_set("k_bits=1.5,v_bits=1,window=32,sink=0,max_ubatch=32");
        llama_context_params p = llama_context_default_params();
        p.n_ctx = 256;
        p.n_batch = 128;
        p.n_ubatch = 32;
        p.n_seq_max = SEQUENCES;
        p.n_threads = p.n_threads_batch = 1;
        p.kv_unified = true;
        p.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
        p.type_k = p.type_v = (ggml_type) xq_ggml_type();
        ctx = llama_init_from_model(model.get(), p);
        if (!ctx) {
            std::fprintf(stderr, "no context: %s\n", xq_last_error());
            std::abort();
        }
    }

    int end(int s) const { return llama_memory_seq_pos_max(llama_get_memory(ctx), s) + 1; }

    bool decode(int s, int n) {
        llama_batch b = llama_batch_init(n, 0, 1);
        for (int i = 0, from = end(s); i < n; ++i) {
            b.token[i] = (i*7 + s) % VOCABULARY;
            b.pos[i] = from + i;
            b.n_seq_id[i] = 1;
            b.seq_id[i][0] = s;
            b.logits[i] = i == n - 1;
        }
        b.n_tokens = n;
        const bool ok = llama_decode(ctx, b) == 0;
        llama_batch_free(b);
        return ok;
    }

    void clear() { llama_memory_clear(llama_get_memory(ctx), true); }
};

target & one() {
    static target t;
    return t;
}

// The bytes that llama.cpp puts before ours: of a whole context the name of the architecture.
size_t outer(bool whole) { return whole ? 4 + 5 : 8; }

// Gives every section the checksum that fits, as far as the lengths hold.
void seal(std::vector<uint8_t> & d, size_t start) {
    if (d.size() < start + 8) {
        return;
    }
    uint32_t crc = xq_crc32(0, d.data() + start, 8);
    for (size_t at = start + 8; at + 8 <= d.size();) {
        uint32_t n;
        std::memcpy(&n, d.data() + at, 4);
        if (n > d.size() - at - 8) {
            return;
        }
        crc = xq_crc32(crc, d.data() + at, 4 + (size_t) n);
        std::memcpy(d.data() + at + 4 + n, &crc, 4);
        at += 8 + (size_t) n;
    }
}

void write(const std::filesystem::path & path, bool whole, const std::vector<uint8_t> & state) {
    std::ofstream out(path, std::ios::binary);
    out.put((char) whole);
    out.write((const char *) state.data(), (std::streamsize) state.size());
}

void expect(bool right, const char * what) {
    if (!right) {
        std::fprintf(stderr, "%s\n", what);
        std::abort();
    }
}

} // namespace

extern "C" int LLVMFuzzerInitialize(int *, char ***) {
    target & t = one();
    const char * folder = std::getenv("XQ_SEEDS");
    for (int n : {1, 40, TOKENS}) {
        t.clear();
        expect(t.decode(0, n) && t.decode(1, 3), "no tokens for the seeds");
        for (const bool whole : {false, true}) {
            std::vector<uint8_t> state(whole ? llama_state_get_size(t.ctx) : llama_state_seq_get_size(t.ctx, 0));
            state.resize(whole ? llama_state_get_data(t.ctx, state.data(), state.size())
                               : llama_state_seq_get_data(t.ctx, state.data(), state.size(), 0));
            const std::vector<uint8_t> before = state;
            seal(state, outer(whole));
            expect(state == before, "the layout of a state is another: see seal()");
            if (folder) {
                write(std::filesystem::path(folder)/((whole ? "whole" : "sequence") + std::to_string(n)), whole, state);
            }
        }
    }
    return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t * data, size_t size, size_t max_size, unsigned seed) {
    size = LLVMFuzzerMutate(data, size, max_size);
    if (size > 1 && seed % 8) {
        std::vector<uint8_t> state(data + 1, data + size);
        seal(state, outer(data[0] & 1));
        std::memcpy(data + 1, state.data(), state.size());
    }
    return size;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    if (size < 1) {
        return 0;
    }
    target & t = one();
    const bool whole = data[0] & 1;
    t.clear();
    expect(t.decode(0, 5) && t.decode(1, 5), "an empty cache takes no tokens");
    const size_t n = whole ? llama_state_set_data(t.ctx, data + 1, size - 1)
                           : llama_state_seq_set_data(t.ctx, data + 1, size - 1, 0);
    if (n == 0) {
        const bool reached = size > 1 + outer(whole) + 8; // else llama.cpp has refused it before it came to the cache
        expect(!reached || std::strlen(xq_last_error()) > 0 || t.end(0) == 5, "refused without a reason");
        expect(t.end(0) == 0 || t.end(0) == 5, "a refused state leaves tokens of its own");
        expect(whole || t.end(1) == 5, "another sequence has changed");
        static unsigned refused = 0;
        expect(t.decode(0, ++refused % 32 ? 1 : 40), "not usable after a refused state");
        return 0;
    }
    for (int s = 0; s < SEQUENCES; ++s) {
        if (t.end(s) < 10000) {
            t.decode(s, size % 4 ? 1 : 33); // may find no room
        }
    }
    return 0;
}
