// Which cache of a context may be packed.
#pragma once

class llama_kv_cache;
struct llama_memory_i;

struct xq_caches {
    llama_kv_cache * main   = nullptr; // the one that may be packed
    llama_kv_cache * window = nullptr; // beside it, of sliding-window layers; packed only if the main one is
};

xq_caches xq_caches_of(llama_memory_i * memory);
