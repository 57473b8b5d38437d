#include "kernels/cpu/avx512.h"
#include "kernels/cpu/kernels.h"

#include <cstdlib>
#include <cstring>

#if XQ_HAVE_AVX512
static bool has_avx512() {
    return xq_kernels_avx2.supported() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni") &&
           __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2");
}

static const xq_cpu_kernels & avx512() {
    static const xq_cpu_kernels k = [] {
        xq_cpu_kernels of = xq_kernels_avx2;
        of.name          = "avx512";
        of.supported     = has_avx512;
        of.key_scores    = xq_avx512_key_scores;
        of.add_values    = xq_avx512_add_values;
        of.softmax       = xq_avx512_softmax;
        of.gemm32        = xq_avx512_gemm32;
        of.gemm32_f16    = xq_avx512_gemm32_f16;
        of.transpose_f16 = xq_avx512_transpose_f16;
        return of;
    }();
    return k;
}
#endif

int xq_cpu_list(const xq_cpu_kernels ** out, int max) {
    static const xq_cpu_kernels * const all[] = {
#if XQ_HAVE_AVX512
        &avx512(),
#endif
#if XQ_HAVE_AVX2
        &xq_kernels_avx2,
#endif
#if XQ_HAVE_NEON
        &xq_kernels_neon_dot,
        &xq_kernels_neon,
#endif
        &xq_kernels_generic,
    };
    int n = 0;
    for (const auto * k : all) {
        if (n < max && k->supported()) {
            out[n++] = k;
        }
    }
    return n;
}

const xq_cpu_kernels & xq_cpu() {
    static const xq_cpu_kernels & chosen = []() -> const xq_cpu_kernels & {
        const xq_cpu_kernels * list[8];
        const int n = xq_cpu_list(list, 8);
        const char * want = std::getenv("XQUANT_CPU");
        for (int i = 0; want && i < n; ++i) {
            if (std::strcmp(list[i]->name, want) == 0) {
                return *list[i];
            }
        }
        return *list[0];
    }();
    return chosen;
}
