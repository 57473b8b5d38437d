// What the host must know of the Metal code. Both compile this: they agree on it, and on how arguments are laid out.
#pragma once

#include "kernels/gpu/args.h"

#define XQ_METAL_THREADS 128   // of a threadgroup
#define XQ_METAL_QUAD    4     // floats of an xqg_quad
#define XQ_METAL_RANKED  13332 // bytes of an xqg_ranked

static_assert(sizeof(xqg_layer) == 152 && sizeof(xqg_store_args) == 192 && sizeof(xqg_seal_args) == 160, "arguments of the kernels");
static_assert(sizeof(xqg_attend_args) == 232 && sizeof(xqg_combine_args) == 24, "arguments of the kernels");
