// Attention on Metal, storing and unpacking: entry points around the shared bodies. A threadgroup has 128 threads and at
// most 32 KiB of memory, which the host sizes with launch.h.
#include "kernels/gpu/attend.h"
#include "kernels/gpu/combine.h"
#include "kernels/gpu/store.h"
#include "kernels/gpu/unpack.h"

#include "kernels/gpu/metal/entry.h"

static_assert(sizeof(xqg_quad) == sizeof(float)*XQ_METAL_QUAD, "the host sizes threadgroup memory");

XQG_ATTEND(1, xqg_attend<1>)
XQG_ATTEND(2, xqg_attend<2>)
XQG_ATTEND(4, xqg_attend<4>)
XQG_ATTEND(8, xqg_attend<8>)

kernel void kernel_xq_combine(
        constant xqg_combine_args & a [[buffer(0)]], device const float * in [[buffer(1)]], device const float * sinks [[buffer(2)]],
        device float * out [[buffer(3)]], XQG_HERE) {
    xqg_combine(xqg_here(group, id, lane, warp), a, in, sinks, out);
}

kernel void kernel_xq_store(
        constant xqg_store_args & a [[buffer(0)]], XQG_PLANES, device const float * k [[buffer(7)]], device const float * v [[buffer(8)]],
        device const int64_t * rows [[buffer(9)]], XQG_HERE) {
    const xqg_planes p = xqg_planes_of(k_codes, v_codes, k_meta, v_meta, k_pages, v_pages);
    xqg_store(xqg_here(group, id, lane, warp), a, p, k, v, rows);
}

// One strip, for self-tests.
kernel void kernel_xq_unpack_strip(
        constant xqg_strip_args & a [[buffer(0)]], device const uint32_t * codes [[buffer(1)]], device const uint8_t * meta [[buffer(2)]],
        device float * out [[buffer(3)]], threadgroup uint16_t * shared XQG_THREADGROUP(0), XQG_HERE) {
    xqg_to_strip sink;
    sink.out = out;
    xqg_unpack_strip(xqg_here(group, id, lane, warp), a.side, codes, meta, sink, shared);
}
