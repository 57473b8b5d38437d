// What is fuzzed: a tiny model, the settings of its packed cache, how sequences share it, and how far its logits may be
// from f16's.
#pragma once

#include <vector>

struct variant {
    const char * name;
    const char * model;
    const char * settings;
    bool   unified;
    int    n_ctx;     // of all sequences together
    double bound;     // of a position: the mean squared error of its logits over their variance
    double mean_bound; // of all positions
    bool window = false, hybrid = false;
    int  ring = 0;         // tokens of a window that is packed
    bool swa_full = false; // window layers keep all tokens
};

const std::vector<variant> & all_variants();
