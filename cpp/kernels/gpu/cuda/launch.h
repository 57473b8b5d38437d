// The kernels as calls, for the backend and for self-tests. All pointers are device memory, every call is asynchronous
// on its stream and allocates nothing, so that it may be captured into a graph. A result of 0 means launched.
#pragma once

#include "kernels/gpu/args.h"

// What every device gives a block without being asked, in bytes.
#define XQG_SHARED_LIMIT XQG_BATCH_MEMORY_CUDA

// out: [n_parts][token][head][dv + 2], for xq_cuda_combine. Any number of query rows; many (xqg_is_batch).
cudaError_t xq_cuda_attend(const xqg_attend_args & a, xqg_planes p, const float * q, const uint16_t * mask, const int32_t * table,
                           float * out, cudaStream_t stream);
cudaError_t xq_cuda_attend_batch(const xqg_attend_args & a, xqg_planes p, const float * q, const uint16_t * mask, const int32_t * table,
                                 float * out, cudaStream_t stream);
cudaError_t xq_cuda_combine(const xqg_combine_args & a, const float * in, const float * sinks, float * out, cudaStream_t stream);

// rows: page row of every new token.
cudaError_t xq_cuda_store(const xqg_store_args & a, xqg_planes p, const float * k, const float * v, const xqg_size * rows, cudaStream_t stream);
// As many blocks for any length of the list, so that a captured graph serves all.
cudaError_t xq_cuda_seal(const xqg_layer & layer, xqg_planes p, const int32_t * table, cudaStream_t stream);

// One strip, for self-tests: contracts of reference/reference.h.
cudaError_t xq_cuda_seal_strip(const xqg_strip_args & a, const float * x, uint32_t * codes, uint8_t * meta, cudaStream_t stream);
cudaError_t xq_cuda_unpack_strip(xq_side side, const uint32_t * codes, const uint8_t * meta, float * out, cudaStream_t stream);
