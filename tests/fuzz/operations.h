// One random operation on one of two worlds.
#pragma once

#include "dice.h"
#include "world.h"

#include <string>

// A saved state: of one sequence, or of a whole context.
struct saved {
    bool whole;
    std::string packed, plain;
    std::vector<sequence> seqs; // what it holds
    std::vector<window_history> windows; // of these
};

struct history {
    history(llama_model * model, const variant & v, tally & t) : count(t), worlds{{model, v}, {model, v}} {}

    tally & count;
    world worlds[2];
    std::vector<saved> stash;
    bool control = false; // f16 is given something else, so that there is something to find
    bool aborts = true;
    bool over = false;    // f16 cannot be compared with any more
};

// Does it, compares, and throws a finding; the text says what was done, as far as it got.
void operate(history & h, dice d, std::string & text);
