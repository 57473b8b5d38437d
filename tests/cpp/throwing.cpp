// An eval callback that stops or throws at one tensor, and llama_decode with the exception caught: what a C++ caller does.
#include "ggml-backend.h"
#include "llama.h"

#include <stdexcept>

struct plan {
    int at;     // which computed tensor, counted down; below 0: none
    int throws; // else the graph is stopped
};

extern "C" bool watch(ggml_tensor *, bool ask, void * data) {
    plan & p = *(plan *) data;
    if (ask || p.at-- != 0) {
        return true;
    }
    if (p.throws) {
        throw std::runtime_error("a callback failed");
    }
    return false;
}

extern "C" int decode(llama_context * ctx, llama_batch batch) {
    try {
        return llama_decode(ctx, batch);
    } catch (const std::exception &) {
        return -100;
    }
}
