// A packed context, an f16 one that is given the same, and an exact model of which tokens each sequence sees.
#pragma once

#include "models.h"
#include "variants.h"

#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

constexpr int SEQUENCES = 4;
constexpr int BATCH = 300; // most tokens of a call

struct finding : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// One token as a sequence sees it. In one set of cells several sequences may see the same.
struct visible {
    uint64_t id;
    bool     spoilt; // not finite, or computed from what was not
};
using sequence = std::map<llama_pos, visible>;

// What llama.cpp's window of a sequence may have lost. Cells outside it are taken for new tokens in the order of cells,
// which after a state was restored is not that of tokens.
struct window_history {
    llama_pos reached = 0; // the most tokens that it had
    bool restored = false;
};

struct free_context {
    void operator()(llama_context * c) const { llama_free(c); }
};
using context_ptr = std::unique_ptr<llama_context, free_context>;

struct tally {
    uint64_t operations = 0, histories = 0, decodes = 0, tokens = 0, compared = 0, aborts = 0, nans = 0;
    uint64_t saves = 0, loads = 0, damaged = 0, full = 0, isolation = 0;
    uint64_t refusals = 0; // by the packed cache where f16 has room
    double   worst = 0, sum = 0;
};

class world {
public:
    world(llama_model * model, const variant & v);

    llama_context * packed() const { return a.get(); }
    llama_context * plain() const { return b.get(); }
    llama_memory_t packed_memory() const { return llama_get_memory(a.get()); }
    llama_memory_t plain_memory() const { return llama_get_memory(b.get()); }

    llama_pos next(int s) const { return seqs[s].empty() ? 0 : seqs[s].rbegin()->first + 1; }
    bool spoilt(int s) const;
    int  used(int s) const; // cells of the stream of a sequence
    int  cells() const { return of.unified ? of.n_ctx : of.n_ctx/SEQUENCES; }
    uint64_t new_id() { return ++last_id; }
    void forget(int s) { seqs[s].clear(); }
    bool packed_any() const; // tokens of any sequence

    // Both caches say of every sequence what the model says; throws a finding. False if llama.cpp's own windows have
    // lost the end of a sequence, or may have lost what its next token sees: it was taken back by more than they hold.
    bool check_ends();
    bool lost(llama_memory_t memory, int s) const; // tokens that the next one sees have left a ring
    // The packed cache's own list of the tokens of every sequence.
    void check_tokens() const;
    std::vector<std::string> states() const; // of every sequence, packed

    const variant & of;
    std::vector<sequence> seqs = std::vector<sequence>(SEQUENCES);
    std::vector<window_history> windows = std::vector<window_history>(SEQUENCES);
    bool copies_wait = false; // a copy between streams that the f16 context has not carried out

private:
    context_ptr a, b;
    uint64_t last_id = 0;
};

std::string packed_state(llama_context * ctx, int s);   // of a sequence, or with -1 of the whole context
