// Parameters that the Metal kernels have in common.
#pragma once

#include "kernels/gpu/metal/sizes.h"

#define XQG_PLANES \
    device uint32_t * k_codes [[buffer(1)]], device uint32_t * v_codes [[buffer(2)]], device uint8_t * k_meta [[buffer(3)]], \
    device uint8_t * v_meta [[buffer(4)]], device uint16_t * k_pages [[buffer(5)]], device uint16_t * v_pages [[buffer(6)]]
#define XQG_HERE \
    uint3 group [[threadgroup_position_in_grid]], uint id [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]], \
    uint warp [[simdgroup_index_in_threadgroup]]

// A kernel of attention around its body.
#define XQG_ATTEND(name, body) \
kernel void kernel_xq_attend_##name( \
        constant xqg_attend_args & a [[buffer(0)]], XQG_PLANES, device const float * q [[buffer(7)]], device const uint16_t * mask [[buffer(8)]], \
        device const int32_t * table [[buffer(9)]], device float * out [[buffer(10)]], threadgroup float * shared XQG_THREADGROUP(0), XQG_HERE) { \
    const xqg_planes p = xqg_planes_of(k_codes, v_codes, k_meta, v_meta, k_pages, v_pages); \
    body(xqg_here(group, id, lane, warp), a, p, q, mask, table, out, shared); \
}

static inline xqg_planes xqg_planes_of(device uint32_t * k_codes, device uint32_t * v_codes, device uint8_t * k_meta,
                                       device uint8_t * v_meta, device uint16_t * k_pages, device uint16_t * v_pages) {
    xqg_planes p;
    p.k_codes = k_codes; p.v_codes = v_codes;
    p.k_meta = k_meta; p.v_meta = v_meta;
    p.k_pages = k_pages; p.v_pages = v_pages;
    return p;
}
