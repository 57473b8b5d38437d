// Products of 16 x 16 matrices in shared memory, for a warp: f16 rows times f16 columns, onto f32.
//
//   xqg_matrix, xqg_half_matrix      a sum; rows to multiply. Which lane holds what is the device's
//   xqg_matrix_clear, _load, _store  a sum: zeros, from f32 in shared memory, to it
//   xqg_matrix_rows                  rows to multiply
//   xqg_matrix_add                   sum += rows * columns
//
// Strides count elements. All 32 lanes call; what other lanes wrote is there after a sync only.
#pragma once

#include "kernels/gpu/device.h"

#if defined(__METAL_VERSION__)
#include "kernels/gpu/matrix_simdgroup.h"
#define XQG_BATCH_MEMORY XQG_BATCH_MEMORY_METAL
#else
#if !defined(__CUDACC__) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 700) // before tensor cores
#include "kernels/gpu/matrix_lanes.h"
#else
#include "kernels/gpu/matrix_wmma.h"
#endif
#define XQG_BATCH_MEMORY XQG_BATCH_MEMORY_CUDA
#endif
