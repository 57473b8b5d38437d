// Sealing on Metal. Codes and metadata have the same bytes on every machine: no fast math and no contraction here. Before
// Metal 3.2 there are no such pragmas, and so no kernel: the host then refuses the layer.
#include <metal_stdlib>

#if __METAL_VERSION__ >= 320
#pragma METAL fp math_mode(safe)
#pragma METAL fp contract(off)
#endif

#include "kernels/gpu/seal.h"

#include "kernels/gpu/metal/entry.h"

#if __METAL_VERSION__ >= 320

static_assert(sizeof(xqg_ranked) == XQ_METAL_RANKED, "the host sizes threadgroup memory");

kernel void kernel_xq_seal(
        constant xqg_seal_args & a [[buffer(0)]], XQG_PLANES, device const int32_t * table [[buffer(7)]],
        threadgroup float * shared XQG_THREADGROUP(0), XQG_HERE) {
    const xqg_planes p = xqg_planes_of(k_codes, v_codes, k_meta, v_meta, k_pages, v_pages);
    xqg_seal(xqg_here(group, id, lane, warp), a.layer, p, table, a.walkers, shared);
}

// One strip, for self-tests.
kernel void kernel_xq_seal_strip(
        constant xqg_strip_args & a [[buffer(0)]], device const float * x [[buffer(1)]], device uint32_t * codes [[buffer(2)]],
        device uint8_t * meta [[buffer(3)]], threadgroup float * shared XQG_THREADGROUP(0), XQG_HERE) {
    xqg_plain first, second;
    first.x  = x;
    second.x = x + XQ_TILE*XQ_LANES;
    const xqg_place at = xqg_here(group, id, lane, warp);
    if (a.side.meta == XQ_META_LOG8) {
        xqg_seal_unbiased(at, a.side, first, second, a.n, a.lanes, a.row_mask, codes, meta, (threadgroup int *) shared);
    } else {
        xqg_seal_strip(at, a.side, first, a.lane_mask, a.row_mask, codes, a.leader != 0, meta, shared);
    }
}

#endif
