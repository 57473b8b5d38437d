// Loops over numbers known when compiling, for sums that must stay in registers: GCC 12 keeps an array in memory that a
// loop's variable names, even where it unrolls the loop later (AVX-512, 1-bit values: twice the time).
#pragma once

#include <utility>

// For the lambdas as well: f may not be called before the arrays are taken apart.
#if defined(__GNUC__)
#define XQ_INLINE __attribute__((always_inline))
#else
#define XQ_INLINE
#endif

template <class F, int... I> XQ_INLINE inline void xq_each_of(F f, std::integer_sequence<int, I...>) { (f(std::integral_constant<int, I>()), ...); }

// f(0) ... f(N - 1)
template <int N, class F> XQ_INLINE inline void xq_each(F f) { xq_each_of(f, std::make_integer_sequence<int, N>()); }
