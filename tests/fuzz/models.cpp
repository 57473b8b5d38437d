#include "models.h"

#include "dice.h"

#include "ggml-backend.h"
#include "ggml.h"
#include "gguf.h"

#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace {

// Large enough that attention matters to the logits, small enough that a softmax looks at many tokens.
float gain(const std::string & name, const std::string & kind, int64_t inputs) {
    const float even = 1.0f/std::sqrt((float) inputs);
    const auto has = [&](const char * part) { return name.find(part) != std::string::npos; };
    return has("token_embd") ? (kind.rfind("window", 0) == 0 ? 0.09f : 0.7f) // Gemma multiplies by 8
        : name.rfind("output.", 0) == 0 ? 3*even
        : has("attn_q") || has("attn_k") ? 0.9f*even
        : has("attn_output") ? (kind == "hybrid" ? 6.0f : 1.5f)*even
        : has("attn_v")      ? 1.5f*even : even;
}

void fill(ggml_tensor * t, void * kind) {
    const std::string name = ggml_get_name(t);
    uint64_t hash = 14695981039346656037ull;
    for (const char c : name) {
        hash = (hash ^ (uint8_t) c)*1099511628211ull;
    }
    dice d(hash, 0);
    const bool norm = name.find("norm") != std::string::npos;
    std::vector<float> data((size_t) ggml_nelements(t));
    for (float & x : data) {
        const float normal = (float) (d.unit() + d.unit() + d.unit() + d.unit() - 2.0)*std::sqrt(3.0f);
        x = norm ? 1.0f + 0.1f*normal : gain(name, *(const std::string *) kind, t->ne[0])*normal;
    }
    if (t->type != GGML_TYPE_F32) {
        throw std::runtime_error("a tensor that is not f32: " + name);
    }
    ggml_backend_tensor_set(t, data.data(), 0, ggml_nbytes(t));
}

struct keys {
    gguf_context * ctx = gguf_init_empty();
    std::string arch;

    explicit keys(const char * arch) : arch(arch) { gguf_set_val_str(ctx, "general.architecture", arch); }
    ~keys() { gguf_free(ctx); }
    keys(const keys &) = delete;

    std::string full(const char * key) const { return arch + "." + key; }
    void set(const char * key, uint32_t v) { gguf_set_val_u32(ctx, full(key).c_str(), v); }
    void set(const char * key, float v) { gguf_set_val_f32(ctx, full(key).c_str(), v); }
    void set(const char * key, const std::vector<uint32_t> & v) {
        gguf_set_arr_data(ctx, full(key).c_str(), GGUF_TYPE_UINT32, v.data(), v.size());
    }
};

} // namespace

model_ptr make_model(const std::string & kind) {
    const bool window = kind.rfind("window", 0) == 0, hybrid = kind == "hybrid";
    keys k(window ? "gemma2" : hybrid ? "lfm2" : "llama");
    k.set("vocab_size", (uint32_t) VOCABULARY);
    k.set("context_length", 32768u);
    k.set("embedding_length", 64u);
    k.set("feed_forward_length", 64u);
    k.set("block_count", kind == "deep" ? 4u : hybrid ? 3u : 2u);
    k.set("attention.head_count", 2u);
    k.set("attention.head_count_kv", 1u);
    k.set("attention.key_length", 32u);
    k.set("attention.value_length", 32u);
    k.set("attention.layer_norm_rms_epsilon", 1e-5f);
    k.set("rope.dimension_count", 32u);
    k.set("rope.freq_base", 10000.0f);
    if (window) {
        k.set("attention.sliding_window", kind == "window-100" ? 100u : (uint32_t) WINDOW);
        k.set("attn_logit_softcapping", 5.0f);
        k.set("final_logit_softcapping", 30.0f);
    }
    if (hybrid) {
        k.set("shortconv.l_cache", 3u);
        k.set("attention.head_count_kv", std::vector<uint32_t>{0, 0, 1});
    }
    std::vector<std::string> words;
    std::vector<const char *> pointers;
    for (int i = 0; i < VOCABULARY; ++i) {
        words.push_back("word" + std::to_string(i));
    }
    for (const auto & w : words) {
        pointers.push_back(w.c_str());
    }
    const std::vector<float> scores(VOCABULARY, 0.0f);
    gguf_set_val_str(k.ctx, "tokenizer.ggml.model", "test");
    gguf_set_arr_str(k.ctx, "tokenizer.ggml.tokens", pointers.data(), pointers.size());
    gguf_set_arr_data(k.ctx, "tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, scores.data(), scores.size());

    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = 0;
    model_ptr model(llama_model_init_from_user(k.ctx, fill, (void *) &kind, params));
    if (!model) {
        throw std::runtime_error("llama.cpp refused the tiny model '" + kind + "'");
    }
    return model;
}
