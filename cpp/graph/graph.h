// ggml nodes of one packed layer: store new rows in pages, seal, attend.
#pragma once

#include "ggml-backend.h"
#include "ggml.h"

class xq_cache;
struct llama_hparams;

// q [dk, n_head, n_tokens], k_cur/v_cur [d, n_head_kv, n_tokens] or null (the layer reuses another one's cache),
// k_idxs [n_tokens] page rows, table (xq_table.h), mask f16 [n_kv, n_tokens/streams, 1, streams], sinks [n_head] or
// null, v_mla [dv, d, n_head] or null: what makes values of latents. Softcap and ALiBi come from hparams. Returns
// [dv*n_head, n_tokens], with v_mla [d*n_head, n_tokens]. An additive bias kq_b is refused while
// the graph is first built, that is, at load. Attention is scheduled where the layer's planes are.
ggml_tensor * xq_build_attn(ggml_context * ctx, ggml_cgraph * gf, ggml_backend_sched_t sched, const xq_cache & cache,
                            const llama_hparams & hparams, int il, ggml_tensor * q, ggml_tensor * k_cur, ggml_tensor * v_cur,
                            ggml_tensor * k_idxs, ggml_tensor * table, ggml_tensor * mask, ggml_tensor * sinks,
                            ggml_tensor * kq_b, float kq_scale, ggml_tensor * v_mla = nullptr);

// Called where upstream would read the whole cache as a tensor: an attention variant without a packed form.
[[noreturn]] void xq_refuse_view(int il);

// Shifting positions (context shift) would rewrite sealed keys: logged and not done. Always true.
bool xq_refuse_shift(const char * what);
