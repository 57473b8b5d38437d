// The ggml nodes of a packed layer, with their CPU callbacks. Every node says in its op_params what it is (node.h), for
// backends that have kernels of their own.
#pragma once

#include "graph/node.h"

// Where a layer lies; codes may be a leader's.
struct xq_node_planes {
    ggml_tensor * k_pages; // f16 [n_embd_k, rows, streams]
    ggml_tensor * v_pages;
    ggml_tensor * k_codes; // i32 [words, streams]
    ggml_tensor * v_codes;
    ggml_tensor * meta;    // i8 [bytes, streams]
};

// Store k and v [d, n_head_kv, n_tokens] in the page rows `rows` and seal the table's list, or one of the two. The
// result is the metadata plane: what reads the layer afterwards takes it as its `meta`.
ggml_tensor * xq_node_seal(ggml_context * ctx, xq_node_kind kind, const xq_node_layer & layer, const xq_node_planes & planes,
                           ggml_tensor * table, ggml_tensor * k, ggml_tensor * v, ggml_tensor * rows);

struct xq_attend_params { float scale, softcap, max_bias; };

// q [dk, n_head, n_tokens]; mask f16 [n_kv, n_tokens/streams, 1, streams]; sinks [n_head] or null. One part: rows
// [dv, n_head, n_tokens]. More: partial results, one for every 256 cells, for xq_node_combine.
ggml_tensor * xq_node_attend(ggml_context * ctx, const xq_node_layer & layer, const xq_node_planes & planes, ggml_tensor * table,
                             ggml_tensor * q, ggml_tensor * mask, ggml_tensor * sinks, xq_attend_params params, int n_parts);
ggml_tensor * xq_node_combine(ggml_context * ctx, const xq_node_layer & layer, ggml_tensor * parts, ggml_tensor * sinks);
