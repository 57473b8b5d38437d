// C API of the packed KV cache, exported by the patched libllama. Python binds it (xquant_gguf/_native.py).
#pragma once

#include <stdbool.h>
#include <stdint.h>

#ifdef _WIN32
#define XQ_API __declspec(dllexport)
#else
#define XQ_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

struct llama_context;

// Changes when a function below changes its meaning.
XQ_API int xq_abi_version(void);

// Value for llama_context_params.type_k and type_v that asks for a packed cache (flash attention enabled).
XQ_API int xq_ggml_type(void);

// Settings ("k_bits=2,window=128,...", cache/config.h) for packed contexts that this thread creates from now on;
// NULL returns to the environment variable XQUANT_KV or the defaults. 0, or -1 with xq_last_error().
XQ_API int xq_config_set(const char * text);

// Why a packed context, a state or a batch was refused in this thread last, or "".
XQ_API const char * xq_last_error(void);

// JSON description of a context's packed cache: plan, bytes by kind, bits. Writes at most size bytes including
// the final NUL; returns the length needed without it, or -1 if the context has no packed cache.
XQ_API int xq_report(const struct llama_context * ctx, char * buf, int size);

// JSON of the bytes that a context and its model take, by buffer type: {"recurrent": n, "buffers": [{"name", "host", "model",
// "context", "compute", "free"}]}. "context" is the KV cache with recurrent states, which "recurrent" counts apart. With
// llama_model_params.no_alloc nothing is allocated, and these are the bytes that would be. Returns as xq_report.
XQ_API int xq_memory(const struct llama_context * ctx, char * buf, int size);

// Names of the CPU implementations that run here, comma separated, the one in use first. Returns as xq_report; -1 with
// xq_last_error() if XQUANT_CPU names none of them.
XQ_API int xq_cpu_implementations(char * buf, int size);

// Names of the GPU backends of this build that have packed kernels ("CUDA"), comma separated; with others a KV cache on a
// GPU is refused. Returns as xq_report.
XQ_API int xq_gpu_backends(char * buf, int size);

// What packing costs each layer, from one forward pass (graph/one_pass.h). config: settings of the cache to be; the bits of keys
// and values to measure. NULL with xq_last_error(). The context of the pass is packed, has a window and a micro-batch that hold all its
// tokens, and xq_one_pass_see with this object as its cb_eval; then it is named, the tokens are decoded at once, and xq_one_pass_costs
// gives JSON, {"layers": [{"il", "k": [energy by width], "v", "stream", "why_none"}]}, as xq_report returns it.
struct ggml_tensor;
XQ_API void * xq_one_pass_new(const char * config, const double * k_bits, int n_k, const int * v_bits, int n_v);
XQ_API bool xq_one_pass_see(struct ggml_tensor * t, bool ask, void * pass);
XQ_API void xq_one_pass_in(void * pass, const struct llama_context * ctx);
XQ_API int xq_one_pass_costs(void * pass, char * buf, int size);
XQ_API void xq_one_pass_free(void * pass);

// For llama_set_abort_callback: whether the int that data points to is not 0. Another thread may set it at any time.
XQ_API bool xq_abort_if(void * data);

#ifdef __cplusplus
}
#endif
