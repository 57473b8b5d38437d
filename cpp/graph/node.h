// What a node of ours tells a backend: its kind, its layer, its parameters. They lie in the op_params of a
// GGML_OP_CUSTOM node, behind ggml's own, and point at plain data: a backend in another library reads them without a
// symbol of libllama, and no other custom node can be taken for one of ours.
#pragma once

#include "format/xq_format.h"

#include "ggml.h"

#include <cstdint>
#include <cstring>

// The head dims of a layer, as refusals name them.
#define XQ_TEXT_OF(x) #x
#define XQ_TEXT(x) XQ_TEXT_OF(x)
#define XQ_HEAD_DIM_RULE \
    "multiples of " XQ_TEXT(XQ_HEAD_DIM_STEP) " from " XQ_TEXT(XQ_MIN_HEAD_DIM) " to " XQ_TEXT(XQ_MAX_HEAD_DIM)

// A layer without addresses; strides as in kernels/cpu/attend.h.
struct xq_node_layer {
    xq_side k, v;
    int32_t dk, dv, n_head_kv;
    int32_t k_leads, v_leads; // the codes are this layer's own
    int64_t k_code_stream, v_code_stream, meta_stream, page_stream;
    int64_t k_row, v_row;
    int64_t v_meta_at;        // bytes of key metadata before a stream's value metadata
};

enum xq_node_kind {
    XQ_NODE_STORE = 1,      // new rows into pages
    XQ_NODE_SEAL,           // the table's seal list: pages to codes and metadata
    XQ_NODE_STORE_AND_SEAL, // both
    XQ_NODE_ATTEND,         // whole rows, or partial results [dv + 2, n_head, n_tokens, parts]
    XQ_NODE_COMBINE,        // partial results to rows
};

// Sources of the first three kinds, of attention and of combining; sinks may be missing.
enum { XQ_S_META, XQ_S_TABLE, XQ_S_K_PAGES, XQ_S_V_PAGES, XQ_S_K_CODES, XQ_S_V_CODES, XQ_S_K, XQ_S_V, XQ_S_ROWS };
enum { XQ_A_Q, XQ_A_MASK, XQ_A_TABLE, XQ_A_K_PAGES, XQ_A_V_PAGES, XQ_A_K_CODES, XQ_A_V_CODES, XQ_A_META, XQ_A_SINKS };
enum { XQ_C_PARTS, XQ_C_SINKS };

struct xq_node {
    uint32_t mark, layout; // XQ_NODE_MARK, XQ_NODE_LAYOUT
    const xq_node_layer * layer;
    int32_t kind;
    float scale, softcap, max_bias; // attention; softcap and ALiBi: 0 is off
};

#define XQ_NODE_MARK    0x4E445158u                                              // "XQDN"
#define XQ_NODE_VERSION 1                                                        // changes with what a field means
#define XQ_NODE_LAYOUT  ((uint32_t) (XQ_NODE_VERSION << 16 | sizeof(xq_node_layer))) // and with its size

// ggml keeps callback, thread count and userdata in the first three words of 8 bytes.
constexpr int XQ_NODE_AT = 32;
static_assert(XQ_NODE_AT + sizeof(xq_node) <= GGML_MAX_OP_PARAMS, "op_params are full");

inline void xq_node_write(ggml_tensor * t, xq_node node) {
    node.mark   = XQ_NODE_MARK;
    node.layout = XQ_NODE_LAYOUT;
    std::memcpy((char *) t->op_params + XQ_NODE_AT, &node, sizeof(node));
}

// False: the node is somebody else's, or of a library built from other sources.
inline bool xq_node_read(const ggml_tensor * t, xq_node & node) {
    if (t->op != GGML_OP_CUSTOM) {
        return false;
    }
    std::memcpy(&node, (const char *) t->op_params + XQ_NODE_AT, sizeof(node));
    return node.mark == XQ_NODE_MARK && node.layout == XQ_NODE_LAYOUT;
}

// What libllama asks a backend for (ggml_backend_reg_get_proc_address) before it puts a packed layer there: the
// reason why the kernels do not take the layer, or null. The name changes with the layout, so a library built from
// other sources has none.
typedef const char * (*xq_layer_check)(const xq_node_layer * layer);
#define XQ_LAYER_CHECK "xq_layer_check_1"
