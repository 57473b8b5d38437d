// What the translated bodies stand on: memory, meetings of the 32 threads, numbers.
layout(local_size_x = 32, local_size_y = 1, local_size_z = 1) in;

struct xqg_place { int id, lane, warp, warps, x, y, z; };

xqg_place xq_here() {
    const int id = int(gl_LocalInvocationIndex);
    return xqg_place(id, id, 0, 1, int(gl_WorkGroupID.x), int(gl_WorkGroupID.y), int(gl_WorkGroupID.z));
}

// ---- memory ----

layout(buffer_reference, std430, buffer_reference_align = 1) buffer xq_u8_at { uint8_t v; };
layout(buffer_reference, std430, buffer_reference_align = 2) buffer xq_u16_at { uint16_t v; };
layout(buffer_reference, std430, buffer_reference_align = 4) buffer xq_uint_at { uint v; };
layout(buffer_reference, std430, buffer_reference_align = 4) buffer xq_int_at { int v; };
layout(buffer_reference, std430, buffer_reference_align = 4) buffer xq_float_at { float v; };
layout(buffer_reference, std430, buffer_reference_align = 8) buffer xq_int64_at { int64_t v; };

// Shared memory, sized by the host; every number takes a word.
layout(constant_id = 0) const int XQ_WORDS = 1;
shared uint xq_memory[XQ_WORDS];
shared uint xq_exchanged[64];

// ---- meetings ----

// Two places in turn: what somebody still reads of one meeting is not written before the barrier of the next one is passed.
uint xq_turn = 0u;
uint xq_meet(uint mine) {
    xq_turn ^= 32u;
    xq_exchanged[xq_turn + gl_LocalInvocationIndex] = mine;
    barrier();
    return xq_turn;
}

void xqg_barrier()   { barrier(); }
void xqg_warp_sync() { barrier(); }
float xqg_shuffle_xor(float x, int mask) {
    const uint at = xq_meet(floatBitsToUint(x));
    return uintBitsToFloat(xq_exchanged[at + (gl_LocalInvocationIndex ^ uint(mask))]);
}
uint xqg_ballot(bool x) {
    const uint at = xq_meet(x ? 1u << gl_LocalInvocationIndex : 0u);
    uint all = 0u;
    for (int i = 0; i < 32; ++i) {
        all |= xq_exchanged[at + i];
    }
    return all;
}

// As device.h adds, upper half onto lower: every thread does it for itself behind one barrier.
float xqg_warp_sum(float x) {
    const uint at = xq_meet(floatBitsToUint(x));
    float part[16];
    [[unroll]] for (int i = 0; i < 16; ++i) {
        precise float sum = uintBitsToFloat(xq_exchanged[at + i]) + uintBitsToFloat(xq_exchanged[at + i + 16]);
        part[i] = sum;
    }
    [[unroll]] for (int n = 8; n > 0; n /= 2) {
        [[unroll]] for (int i = 0; i < n; ++i) {
            precise float sum = part[i] + part[i + n];
            part[i] = sum;
        }
    }
    return part[0];
}
float xqg_warp_max(float x) {
    const uint at = xq_meet(floatBitsToUint(x));
    float most = x;
    for (int i = 0; i < 32; ++i) {
        const float other = uintBitsToFloat(xq_exchanged[at + i]);
        most = other > most ? other : most; // of a number and a NaN the number
    }
    return most;
}

// ---- numbers ----

float xq_bits_float(uint u)  { return uintBitsToFloat(u); }
uint  xq_float_bits(float x) { return floatBitsToUint(x); }
float xqg_infinity()         { return uintBitsToFloat(0x7F800000u); }
int   xqg_popcount(uint x)   { return bitCount(x); }

// For code with the same bytes on every machine: never fused, never reordered. In Vulkan a quotient and a root may be 2.5
// units in the last place off, and lavapipe's are: a step on the exact remainder rounds them as the CPU does.
float xq_add(float a, float b) { precise float r = a + b; return r; }
float xq_sub(float a, float b) { precise float r = a - b; return r; }
float xq_mul(float a, float b) { precise float r = a * b; return r; }
// x + 0, which makes 0 of -0, and which a driver may take for x: lavapipe's does.
float xq_plus_zero(float x) {
    const uint bits = floatBitsToUint(x);
    return uintBitsToFloat(bits == 0x80000000u ? 0u : bits);
}

// The upper half of a number's bits.
float xq_upper(float x) {
    const float wide = xq_mul(x, 4097.0);
    return xq_sub(wide, xq_sub(wide, x));
}
// x - a*b for a*b near x. In halves (Dekker 1971), because fma need not be one operation.
float xq_rest(float x, float a, float b) {
    const float ab = xq_mul(a, b), a1 = xq_upper(a), b1 = xq_upper(b), a2 = xq_sub(a, a1), b2 = xq_sub(b, b1);
    const float error = xq_add(xq_add(xq_add(xq_sub(xq_mul(a1, b1), ab), xq_mul(a1, b2)), xq_mul(a2, b1)), xq_mul(a2, b2));
    return xq_sub(xq_sub(x, ab), error);
}
bool xq_halves(float x) { return abs(x) > 1e-15 && abs(x) < 1e15; } // have room for theirs
float xq_div(float a, float b) {
    const float q = a / b;
    return xq_halves(q) && xq_halves(b) ? xq_add(q, xq_rest(a, q, b) / b) : q;
}
float xqg_sqrt(float x) {
    const float r = sqrt(x);
    return xq_halves(r) ? xq_add(r, xq_rest(x, r, r) / (2.0 * r)) : r;
}

// f16 in integers: a device may flush what is subnormal and choose how it rounds.
float xqg_half(uint bits) {
    const uint sign = (bits & 0x8000u) << 16, rest = bits & 0x7FFFu;
    const uint whole = rest >= 0x7C00u ? 0x7F800000u | (rest & 0x3FFu) << 13 : (rest << 13) + 0x38000000u;
    return uintBitsToFloat(sign | (rest < 0x400u ? floatBitsToUint(float(rest) * 5.9604644775390625e-8) : whole));
}
uint xqg_to_half(float x) {
    const uint bits = floatBitsToUint(x), sign = bits >> 16 & 0x8000u, size = bits & 0x7FFFFFFFu;
    if (size > 0x7F800000u) {
        return sign | 0x7E00u;
    }
    if (size >= 0x477FF000u) {
        return sign | 0x7C00u;
    }
    if (size >= 0x38800000u) {
        return sign | (size - 0x38000000u + 0xFFFu + (size >> 13 & 1u)) >> 13;
    }
    // the sum's last bit is that of a subnormal f16
    precise float sum = uintBitsToFloat(size) + 0.5;
    return sign | (floatBitsToUint(sum) - 0x3F000000u);
}

float xqg_exp(float x)                   { return exp(x); }
float xqg_exp2(float x)                  { return exp2(x); }
float xqg_tanh(float x)                  { return tanh(clamp(x, -15.0, 15.0)); }
float xqg_fma(float a, float b, float c) { return fma(a, b, c); }
float xqg_abs(float x)                   { return abs(x); }
