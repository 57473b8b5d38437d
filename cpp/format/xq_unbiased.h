// Symmetric values under an unbiased scale.
//
// Rotated values are close to normal with a mean of zero, so a group needs no zero point, may be long (a token's 64
// channels of two strips), and its levels follow from its root mean square alone:
//
//   code  = round(x / (a rms) + (2^b-1)/2), a = the step of the best uniform quantiser of a normal variable
//   scale = <x,x> / <x, code - (2^b-1)/2>;  the value is  scale*(code - (2^b-1)/2)
//
// Least squares would shrink what it quantises; attention averages values over tokens, where noise cancels and
// shrinking does not. This scale makes <x, value> = <x, x>.
//
// Sums run over the lanes of both strips, x[l] + x[l+32] first, then the upper half of the lanes onto the lower
// until one is left: the order in which vector registers add. Lanes and rows without data count as 0, and so does a
// number that is not finite.
//
// Metadata, one for two strips (an odd last strip has its own): u16 lowest, u16 step of a logarithmic grid (top
// 255), u8 scale code of every row.
#ifndef XQ_UNBIASED_H
#define XQ_UNBIASED_H

#include "format/xq_format.h"

// Step of the uniform quantiser with the least square error for a normal variable (Max 1960).
XQ_FN float xq_normal_step(int bits) { return bits == 1 ? 1.596f : bits == 2 ? 0.9957f : bits == 3 ? 0.586f : 0.3352f; }

XQ_FN float xq_half_levels(int bits) { return 0.5f * (float) xq_code_max(bits); }

// rms: root mean square of the group; 0 gives 0.
XQ_FN float xq_unbiased_inv(float rms, int bits) {
    const float step = xq_normal_step(bits) * rms;
    return step > 0.0f ? 1.0f / step : 0.0f;
}
XQ_FN int xq_unbiased_encode(float x, float inv, int bits) {
    const float p = x * inv;
    const int   c = (int) (p + (xq_half_levels(bits) + 0.5f));
    return c < 0 ? 0 : (c > xq_code_max(bits) ? xq_code_max(bits) : c);
}
// along: <x, code - half levels>, xx: <x, x>.
XQ_FN float xq_unbiased_scale(float xx, float along) { return along > 0.0f ? xx / along : 0.0f; }

#endif
