// Tiny random models, made in memory: no file and no tokenizer.
#pragma once

#include "llama.h"

#include <memory>
#include <string>

struct free_model {
    void operator()(llama_model * m) const { llama_model_free(m); }
};
using model_ptr = std::unique_ptr<llama_model, free_model>;

constexpr int VOCABULARY = 64;
constexpr int WINDOW = 64; // of "window"

// "plain": two layers; "deep": four; "window": one of two layers sees 64 tokens, "window-100": 100; "hybrid": one of three has attention.
model_ptr make_model(const std::string & kind);
