// What a host tells the shaders: push constants, specialisation constants, shared memory. A layer is xq_node_layer or xqg_layer.
#pragma once

#define XQG_WARPS 1 // a block is one warp: see device_glsl.h
#include "kernels/gpu/launch.h"

#include <cstring>
#include <vector>

// As xqg_planes in a push constant.
struct xq_vulkan_planes { uint64_t k_codes, v_codes, k_meta, v_meta, k_pages, v_pages; };

struct xq_attend_push {
    xq_vulkan_planes p;
    uint64_t q, mask, table, result;
    int32_t q_token, q_head, mask_token, mask_stream;
    int32_t n_tokens, n_stream, n_kv, first_token, first_stream, table_tokens, span, n_parts;
};
static_assert(sizeof(xq_attend_push) == 128, "what every device takes");

struct xq_combine_push {
    uint64_t parts, sinks, result;
    int32_t dv, rot, n_head, n_tokens, n_parts, has_sinks;
};

struct xq_store_push {
    xq_vulkan_planes p;
    uint64_t k, v, rows;
    int32_t k_head, k_token, v_head, v_token, n_tokens;
};

struct xq_seal_push {
    xq_vulkan_planes p;
    uint64_t table;
    int32_t walkers;
};

// Outside xq_memory the shaders keep 64 words to exchange numbers.
constexpr size_t XQ_EXCHANGED = 64*sizeof(uint32_t);

// The layout packs two 16-bit numbers into a word; here they take one each, at the end of the only warp's part.
template <class Layer> size_t xq_vulkan_attend_bytes(const Layer & l, int rows) {
    return xqg_attend_bytes(l.k, l.v, l.dk, rows, 4) + sizeof(uint16_t)*(size_t) ((l.k.rows + 31) & ~31);
}

// Query rows of a block: as many as there are and as fit, up to `most`.
template <class Layer> int xq_vulkan_rows(const Layer & l, int all, int most, size_t limit) {
    int rows = 1;
    while (rows < most && rows < all && xq_vulkan_attend_bytes(l, 2*rows) <= limit) {
        rows *= 2;
    }
    return rows;
}

inline void xq_vulkan_add(std::vector<uint32_t> & c, float x) {
    c.push_back(0);
    std::memcpy(&c.back(), &x, sizeof(x));
}
inline void xq_vulkan_add(std::vector<uint32_t> & c, const xq_side & s) {
    for (const int x : {s.bits, s.meta, s.rows, s.strips, s.lanes_last, s.fit, s.words, s.rot}) {
        c.push_back((uint32_t) x);
    }
    xq_vulkan_add(c, s.eta);
    xq_vulkan_add(c, s.eta2);
}

// Constants 1 to 31 of layer.glsl. The strides must fit into 31 bits, which whoever takes a layer has seen to.
template <class Layer> std::vector<uint32_t> xq_vulkan_layer_constants(const Layer & l) {
    std::vector<uint32_t> c;
    xq_vulkan_add(c, l.k);
    xq_vulkan_add(c, l.v);
    for (const int64_t x : {(int64_t) l.dk, (int64_t) l.dv, (int64_t) l.n_head_kv, (int64_t) l.k_leads, (int64_t) l.v_leads, (int64_t) l.k_code_stream,
                            (int64_t) l.v_code_stream, (int64_t) l.meta_stream, (int64_t) l.page_stream, (int64_t) l.k_row, (int64_t) l.v_row}) {
        c.push_back((uint32_t) x);
    }
    return c;
}

// And those of attend.comp behind them.
template <class Layer> std::vector<uint32_t> xq_vulkan_attend_constants(const Layer & l, int n_head, float scale, float softcap, float max_bias) {
    std::vector<uint32_t> c = xq_vulkan_layer_constants(l);
    c.push_back((uint32_t) n_head);
    for (const float x : {scale, softcap, max_bias}) {
        xq_vulkan_add(c, x);
    }
    return c;
}
