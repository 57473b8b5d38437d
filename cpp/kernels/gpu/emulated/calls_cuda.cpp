// The CUDA launches, on the emulator.
#include "kernels/gpu/emulated/calls.h"

#include "kernels/gpu/cuda/launch.h"

const char * const xq_emulated_name = "cuda-emulated";

void xq_call_attend(const xqg_attend_args & a, xqg_planes p, const float * q, const uint16_t * mask, const int32_t * table, float * out) {
    xq_cuda_attend(a, p, q, mask, table, out, nullptr);
}
void xq_call_attend_batch(const xqg_attend_args & a, xqg_planes p, const float * q, const uint16_t * mask, const int32_t * table, float * out) {
    xq_cuda_attend_batch(a, p, q, mask, table, out, nullptr);
}
void xq_call_combine(const xqg_combine_args & a, const float * in, const float * sinks, float * out) { xq_cuda_combine(a, in, sinks, out, nullptr); }
void xq_call_store(const xqg_store_args & a, xqg_planes p, const float * k, const float * v, const int64_t * rows) {
    xq_cuda_store(a, p, k, v, rows, nullptr);
}
void xq_call_seal(const xqg_layer & layer, xqg_planes p, const int32_t * table) { xq_cuda_seal(layer, p, table, nullptr); }
void xq_call_seal_strip(const xqg_strip_args & a, const float * x, uint32_t * codes, uint8_t * meta) { xq_cuda_seal_strip(a, x, codes, meta, nullptr); }
void xq_call_unpack_strip(const xqg_strip_args & a, const uint32_t * codes, const uint8_t * meta, float * out) {
    xq_cuda_unpack_strip(a.side, codes, meta, out, nullptr);
}
