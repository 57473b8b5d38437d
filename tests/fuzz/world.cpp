#include "world.h"

#include "capi/xquant.h"

#include <algorithm>
#include <cstring>
#include <set>

namespace {

context_ptr open(llama_model * model, const variant & v, bool packed, uint32_t n_ubatch) {
    llama_context_params p = llama_context_default_params();
    p.n_ctx = (uint32_t) v.n_ctx;
    p.n_batch = BATCH;
    p.n_ubatch = n_ubatch;
    p.n_seq_max = SEQUENCES;
    p.n_threads = p.n_threads_batch = 1;
    p.kv_unified = v.unified;
    p.swa_full = v.swa_full;
    p.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    p.type_k = p.type_v = packed ? (ggml_type) xq_ggml_type() : GGML_TYPE_F16;
    if (packed && xq_config_set(v.settings) != 0) {
        throw std::runtime_error(xq_last_error());
    }
    context_ptr ctx(llama_init_from_model(model, p));
    if (!ctx) {
        throw std::runtime_error(std::string("no context: ") + xq_last_error());
    }
    return ctx;
}

uint32_t word(const std::string & s, size_t at) {
    if (at + 4 > s.size()) {
        throw finding("a state ends before its tiles do");
    }
    uint32_t v;
    std::memcpy(&v, s.data() + at, 4);
    return v;
}

// Positions that the state of a sequence holds: the layout at the top of cpp/cache/state.cpp, behind 8 bytes of
// llama.cpp's.
std::multiset<llama_pos> positions(const std::string & state) {
    size_t at = 16;
    const uint32_t n_tiles = word(state, at + 4 + 12), n_tokens = word(state, at + 4 + 16);
    at += word(state, at) + 8;
    std::multiset<llama_pos> found;
    for (uint32_t t = 0; t < n_tiles; ++t) {
        const uint32_t cells = word(state, at + 4 + 8);
        const int n = __builtin_popcount(cells);
        for (int i = 0; i < n; ++i) {
            found.insert((llama_pos) word(state, at + 4 + 16 + 16*(size_t) i));
        }
        at += word(state, at) + 8;
    }
    if (found.size() != n_tokens) {
        throw finding("a state names another number of tokens than it holds");
    }
    return found;
}

} // namespace

std::string packed_state(llama_context * ctx, int s) {
    std::string out;
    if (s < 0) {
        out.resize(llama_state_get_size(ctx));
        out.resize(llama_state_get_data(ctx, (uint8_t *) &out[0], out.size()));
    } else {
        out.resize(llama_state_seq_get_size(ctx, s));
        out.resize(llama_state_seq_get_data(ctx, (uint8_t *) &out[0], out.size(), s));
    }
    return out;
}

// A packed context lowers n_ubatch to its max_ubatch; the f16 one must cut batches alike.
world::world(llama_model * model, const variant & v)
    : of(v), a(open(model, v, true, 64)), b(open(model, v, false, llama_n_ubatch(a.get()))) {}

bool world::spoilt(int s) const {
    return std::any_of(seqs[s].begin(), seqs[s].end(), [](const auto & c) { return c.second.spoilt; });
}

bool world::packed_any() const {
    for (int s = 0; s < SEQUENCES; ++s) {
        if (llama_memory_seq_pos_max(packed_memory(), s) >= 0) {
            return true;
        }
    }
    return false;
}

int world::used(int s) const {
    std::set<uint64_t> ids;
    for (int q = 0; q < SEQUENCES; ++q) {
        if (of.unified || q == s) {
            for (const auto & c : seqs[q]) {
                ids.insert(c.second.id);
            }
        }
    }
    return (int) ids.size();
}

// Two rings hold different numbers of tokens behind their window, so they lose them at different rewinds.
bool world::lost(llama_memory_t memory, int s) const {
    const auto first = seqs[s].lower_bound(std::max(0, next(s) - of.ring + 1));
    const llama_pos min = llama_memory_seq_pos_min(memory, s);
    return first != seqs[s].end() && (min < 0 || min > first->first);
}

bool world::check_ends() {
    for (int s = 0; s < SEQUENCES; ++s) {
        const auto say = [&](const char * what, llama_pos min, llama_pos max) {
            return std::string(what) + " " + std::to_string(min) + " to " + std::to_string(max);
        };
        if (of.ring && (lost(plain_memory(), s) || lost(packed_memory(), s))) {
            return false;
        }
        const llama_pos want_max = next(s) - 1, want_min = seqs[s].empty() ? -1 : seqs[s].begin()->first;
        const llama_memory_t a = packed_memory(), b = plain_memory();
        const llama_pos a_min = llama_memory_seq_pos_min(a, s), a_max = llama_memory_seq_pos_max(a, s);
        const llama_pos b_min = llama_memory_seq_pos_min(b, s), b_max = llama_memory_seq_pos_max(b, s);
        const bool all = !of.window && !of.hybrid; // windows and recurrent states forget the first tokens
        if (a_max != b_max || (all && (a_min != b_min || a_max != want_max || a_min != want_min))) {
            throw finding("positions of sequence " + std::to_string(s) + ": " + say("packed", a_min, a_max) +
                          say(", f16", b_min, b_max) + say(", must be", want_min, want_max));
        }
        if (b_max != want_max) {
            return false;
        }
        window_history & h = windows[s];
        h = seqs[s].empty() ? window_history{} : h;
        h.reached = std::max(h.reached, next(s));
        if (of.window && h.restored && std::max(want_min, next(s) - WINDOW + 1) < h.reached - WINDOW) {
            return false;
        }
    }
    return true;
}

void world::check_tokens() const {
    for (int s = 0; s < SEQUENCES; ++s) {
        const auto found = positions(packed_state(a.get(), s));
        std::multiset<llama_pos> want;
        for (const auto & c : seqs[s]) {
            want.insert(c.first);
        }
        if (found != want) {
            throw finding("the state of sequence " + std::to_string(s) + " holds " + std::to_string(found.size()) +
                          " tokens and not the " + std::to_string(want.size()) + " that it sees, or others");
        }
    }
    std::string text((size_t) std::max(0, xq_report(a.get(), nullptr, 0)), '\0');
    xq_report(a.get(), &text[0], (int) text.size() + 1);
    std::set<uint64_t> ids;
    for (const auto & q : seqs) {
        for (const auto & c : q) {
            ids.insert(c.second.id);
        }
    }
    const std::string want = "\"tokens\":" + std::to_string(ids.size()) + ",";
    if (text.find(want) == std::string::npos) {
        throw finding("the report must say " + want + " and says " + text.substr(0, 200));
    }
}

std::vector<std::string> world::states() const {
    std::vector<std::string> out;
    for (int s = 0; s < SEQUENCES; ++s) {
        out.push_back(packed_state(a.get(), s));
    }
    return out;
}
