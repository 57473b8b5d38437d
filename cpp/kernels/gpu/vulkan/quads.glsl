// Products with codes in f32, as quads_float.h: the four codes of a masked word are its bytes.
struct xqg_sum { float v; };

float xqg_inv(float most)         { return 1.0; }
float xqg_step(float most)        { return 1.0; }
bool  xqg_too_coarse(float share) { return false; }

void xqg_clear(int q) {
    xq_memory[q] = xq_memory[q + 1] = xq_memory[q + 2] = xq_memory[q + 3] = 0u;
}
void xqg_put(int q, int byte, float scaled) { xq_memory[q + byte] = floatBitsToUint(scaled); }

void xqg_mac4(inout xqg_sum sum, uint codes, int q) {
    const vec4 m = uintBitsToFloat(uvec4(xq_memory[q], xq_memory[q + 1], xq_memory[q + 2], xq_memory[q + 3]));
    sum.v += dot(m, vec4(uvec4(codes, codes >> 8, codes >> 16, codes >> 24) & 255u));
}
void  xqg_reset(inout xqg_sum sum) { sum.v = 0.0; }
float xqg_total(xqg_sum sum)       { return sum.v; }
