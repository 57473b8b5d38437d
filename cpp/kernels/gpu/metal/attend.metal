// Attention on Metal, storing and unpacking: entry points around the shared bodies. A threadgroup has 128 threads and at
// most 32 KiB of memory, which the host sizes with launch.h.
#include "kernels/gpu/attend.h"
#include "kernels/gpu/combine.h"
#include "kernels/gpu/store.h"
#include "kernels/gpu/unpack.h"

#include "kernels/gpu/metal/entry.h"

static_assert(sizeof(xqg_quad) == sizeof(float)*XQ_METAL_QUAD, "the host sizes threadgroup memory");

#define XQG_ATTEND(rows) \
kernel void kernel_xq_attend_##rows( \
        constant xqg_attend_args & a [[buffer(0)]], XQG_PLANES, device const float * q [[buffer(7)]], device const uint16_t * mask [[buffer(8)]], \
        device const int32_t * table [[buffer(9)]], device float * out [[buffer(10)]], threadgroup float * shared XQG_THREADGROUP(0), XQG_HERE) { \
    const xqg_planes p = xqg_planes_of(k_codes, v_codes, k_meta, v_meta, k_pages, v_pages); \
    xqg_attend<rows>(xqg_here(group, id, lane, warp), a, p, q, mask, table, out, shared); \
}

XQG_ATTEND(1)
XQG_ATTEND(2)
XQG_ATTEND(4)
XQG_ATTEND(8)

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

kernel void kernel_xq_unpack(
        constant xqg_unpack_args & a [[buffer(0)]], XQG_PLANES, device const int32_t * table [[buffer(7)]], device uint16_t * k [[buffer(8)]],
        device uint16_t * v [[buffer(9)]], threadgroup uint16_t * shared XQG_THREADGROUP(0), XQG_HERE) {
    const xqg_planes p = xqg_planes_of(k_codes, v_codes, k_meta, v_meta, k_pages, v_pages);
    xqg_unpack_tiles(xqg_here(group, id, lane, warp), a, p, table, k, v, shared);
}

// One strip, for self-tests.
kernel void kernel_xq_unpack_strip(
        constant xqg_strip_args & a [[buffer(0)]], device const uint32_t * codes [[buffer(1)]], device const uint8_t * meta [[buffer(2)]],
        device float * out [[buffer(3)]], threadgroup uint16_t * shared XQG_THREADGROUP(0), XQG_HERE) {
    xqg_to_strip sink;
    sink.out = out;
    xqg_unpack_strip(xqg_here(group, id, lane, warp), a.side, codes, meta, sink, shared);
}
