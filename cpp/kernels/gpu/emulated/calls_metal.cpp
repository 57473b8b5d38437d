// The Metal kernels, on the emulator: the source compiled as C++ through tests/gpu/shim/, launched as a host would.
#include "kernels/gpu/emulated/calls.h"

#include "kernels/gpu/metal/attend.metal"
#include "kernels/gpu/metal/batch.metal"
#include "kernels/gpu/metal/seal.metal"

#include "kernels/gpu/launch.h"

const char * const xq_emulated_name = "metal-emulated";

static const size_t THREADGROUP_LIMIT = 32*1024;

// The numbers that Metal gives every thread.
#define GROUP uint3{(uint) xq_emulator::block_index(0), (uint) xq_emulator::block_index(1), (uint) xq_emulator::block_index(2)}
#define HERE GROUP, (uint) xq_emulator::thread_index(), (uint) xq_emulator::thread_index() & 31, (uint) xq_emulator::thread_index() >> 5
#define PLANES p.k_codes, p.v_codes, p.k_meta, p.v_meta, p.k_pages, p.v_pages
#define SHARED(type) ((type *) xq_emulator::shared_memory())

void xq_call_attend(const xqg_attend_args & args, xqg_planes p, const float * q, const uint16_t * mask, const int32_t * table, float * out) {
    xqg_attend_args a = args;
    const int quad = (int) (sizeof(xqg_quad)/sizeof(float)), all = a.n_tokens/a.n_stream*(a.n_head/a.layer.n_head_kv);
    const int rows = xqg_rows(a.layer.k, a.layer.v, a.layer.dk, all, quad, THREADGROUP_LIMIT);
    const size_t bytes = xqg_attend_bytes(a.layer.k, a.layer.v, a.layer.dk, rows, quad);
    const auto pick = rows == 1 ? kernel_xq_attend_1 : rows == 2 ? kernel_xq_attend_2 : rows == 4 ? kernel_xq_attend_4 : kernel_xq_attend_8;
    xq_emulator::launch(xqg_attend_grid(a.n_parts, a.layer.n_head_kv, a.n_stream, all, rows, bytes),
                        [&] { pick(a, PLANES, q, mask, table, out, SHARED(float), HERE); });
}

void xq_call_attend_batch(const xqg_attend_args & args, xqg_planes p, const float * q, const uint16_t * mask, const int32_t * table, float * out) {
    xqg_attend_args a = args;
    const int dv = a.layer.dv, all = a.n_tokens/a.n_stream*(a.n_head/a.layer.n_head_kv);
    const auto pick = dv <= 64 ? kernel_xq_attend_batch_64 : dv <= 128 ? kernel_xq_attend_batch_128 : kernel_xq_attend_batch_256;
    xq_emulator::launch(xqg_batch_grid(a.n_parts, a.layer.n_head_kv, a.n_stream, all, a.layer.dk, dv, XQG_BATCH_MEMORY_METAL),
                        [&] { pick(a, PLANES, q, mask, table, out, SHARED(float), HERE); });
}

void xq_call_combine(const xqg_combine_args & args, const float * in, const float * sinks, float * out) {
    xqg_combine_args a = args;
    xq_emulator::launch({a.n_tokens*a.n_head, 1, 1, 128, 0}, [&] { kernel_xq_combine(a, in, sinks, out, HERE); });
}

void xq_call_store(const xqg_store_args & args, xqg_planes p, const float * k, const float * v, const int64_t * rows) {
    xqg_store_args a = args;
    xq_emulator::launch({a.n_tokens, a.layer.n_head_kv, 1, 128, 0}, [&] { kernel_xq_store(a, PLANES, k, v, rows, HERE); });
}

void xq_call_seal(const xqg_layer & layer, xqg_planes p, const int32_t * table) {
    xqg_seal_args a = {layer, XQG_SEAL_WALKERS};
    xq_emulator::launch(xqg_seal_grid(layer.k, layer.v, layer.n_head_kv, xqg_seal_bytes(layer.k, sizeof(xqg_ranked))),
                        [&] { kernel_xq_seal(a, PLANES, table, SHARED(float), HERE); });
}

void xq_call_seal_strip(const xqg_strip_args & args, const float * x, uint32_t * codes, uint8_t * meta) {
    xqg_strip_args a = args;
    xq_emulator::launch({1, 1, 1, 128, xqg_seal_bytes(a.side, sizeof(xqg_ranked))},
                        [&] { kernel_xq_seal_strip(a, x, codes, meta, SHARED(float), HERE); });
}

void xq_call_unpack_strip(const xqg_strip_args & args, const uint32_t * codes, const uint8_t * meta, float * out) {
    xqg_strip_args a = args;
    xq_emulator::launch({1, 1, 1, 128, xqg_unpack_bytes(a.side)}, [&] { kernel_xq_unpack_strip(a, codes, meta, out, SHARED(uint16_t), HERE); });
}
