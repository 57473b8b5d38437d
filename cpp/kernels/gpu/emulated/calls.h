// The kernels of one backend as the emulator calls them: calls_cuda.cpp or calls_metal.cpp. Standard headers come first,
// because the shim for Metal makes macros of words that they use.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/gpu/emulated/emulator.h"

#include "kernels/gpu/args.h"

extern const char * const xq_emulated_name;

void xq_call_attend(const xqg_attend_args & a, xqg_planes p, const float * q, const uint16_t * mask, const int32_t * table, float * out);
void xq_call_attend_batch(const xqg_attend_args & a, xqg_planes p, const float * q, const uint16_t * mask, const int32_t * table, float * out);
void xq_call_combine(const xqg_combine_args & a, const float * in, const float * sinks, float * out);
void xq_call_store(const xqg_store_args & a, xqg_planes p, const float * k, const float * v, const int64_t * rows);
void xq_call_seal(const xqg_layer & layer, xqg_planes p, const int32_t * table);
void xq_call_seal_strip(const xqg_strip_args & a, const float * x, uint32_t * codes, uint8_t * meta);
void xq_call_unpack_strip(const xqg_strip_args & a, const uint32_t * codes, const uint8_t * meta, float * out);
