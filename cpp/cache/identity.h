// Which model a saved state belongs to: a sum of its weights, not only of their shapes.
#pragma once

#include <array>
#include <cstdint>

struct llama_model;

struct xq_identity {
    uint32_t model = 0;              // names, types and shapes of all tensors; bytes of vectors and of token embeddings
    std::array<uint32_t, 16> parts{}; // bytes of some matrices, 0 where they cannot be read in this process

    bool operator==(const xq_identity & o) const; // parts count where both have them
};

xq_identity xq_identify(const llama_model & model);
