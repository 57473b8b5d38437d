// The device layer for GLSL, as the translator (python/build/glsl) reads it: what has no body here is written in GLSL, in
// device.glsl. A block is one warp: its 32 threads meet at barriers of the block, whatever the size of a subgroup is.
#pragma once

typedef int64_t xqg_size;

struct xqg_place { int id, lane, warp, warps, x, y, z; };

float    xq_bits_float(uint32_t u);
uint32_t xq_float_bits(float x);
float    xqg_infinity();

void     xqg_barrier();
void     xqg_warp_sync();
float    xqg_shuffle_xor(float x, int mask);
uint32_t xqg_ballot(bool x);
float    xqg_warp_sum(float x);
float    xqg_warp_max(float x);
int      xqg_popcount(uint32_t x);

float    xqg_half(uint16_t bits);
uint16_t xqg_to_half(float x);
float    xqg_exp(float x);
float    xqg_exp2(float x);
float    xqg_tanh(float x);
float    xqg_sqrt(float x);
float    xqg_fma(float a, float b, float c);
float    xqg_abs(float x);

// As quads_float.h.
struct xqg_quad { float m[4]; };
struct xqg_sum { float v; };
float xqg_inv(float most);
float xqg_step(float most);
bool  xqg_too_coarse(float share);
void  xqg_clear(XQ_SHARED xqg_quad * q);
void  xqg_put(XQ_SHARED xqg_quad * q, int byte, float scaled);
void  xqg_mac4(XQ_LOCAL xqg_sum & sum, uint32_t codes, XQ_SHARED const xqg_quad * q);
void  xqg_reset(XQ_LOCAL xqg_sum & sum);
float xqg_total(XQ_LOCAL const xqg_sum & sum);

#include "format/xq_table.h"
