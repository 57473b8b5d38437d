#include "kernels/cpu/avx512.h"
#include "kernels/cpu/avx_vnni.h"
#include "kernels/cpu/by_mac.h"
#include "kernels/cpu/kernels.h"

#if XQ_HAVE_AVX_VNNI
#include <cpuid.h>
#endif

#include <cstdlib>
#include <cstring>
#include <string>

#if XQ_HAVE_AVX_VNNI
static bool has_avx_vnni() { // by leaf 7.1: compilers learnt its name late
    unsigned a = 0, b = 0, c = 0, d = 0;
    return xq_kernels_avx2.supported() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

static const xq_cpu_kernels & avx_vnni();

static void avx_vnni_key_scores(const xq_side & side, const xq_sealed_tiles & tiles, const float * q, int ldq, int n, float * s, int lds, uint64_t * coarse) {
    if (!xq_avx_vnni_key_scores(side, tiles, q, ldq, n, s, lds, coarse)) {
        xq_key_scores(avx_vnni(), side, tiles, q, ldq, n, s, lds, coarse);
    }
}

static const xq_cpu_kernels & avx_vnni() {
    static const xq_cpu_kernels k = [] {
        xq_cpu_kernels of = xq_kernels_avx2;
        of.name       = "avx-vnni";
        of.supported  = has_avx_vnni;
        of.mac        = xq_avx_vnni_mac;
        of.key_scores = avx_vnni_key_scores;
        of.add_values = xq_avx_vnni_add_values;
        return of;
    }();
    return k;
}
#endif

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
        of.finite        = xq_avx512_finite;
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
#if XQ_HAVE_AVX_VNNI
        &avx_vnni(),
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

// The implementation of that name among those that run here, or null.
static const xq_cpu_kernels * named(const char * name) {
    const xq_cpu_kernels * list[8];
    const int n = xq_cpu_list(list, 8);
    for (int i = 0; i < n; ++i) {
        if (std::strcmp(list[i]->name, name) == 0) {
            return list[i];
        }
    }
    return nullptr;
}

static const char * wanted() {
    const char * name = std::getenv("XQUANT_CPU");
    return name && *name ? name : nullptr;
}

const xq_cpu_kernels & xq_cpu() {
    static const xq_cpu_kernels & chosen = []() -> const xq_cpu_kernels & {
        const xq_cpu_kernels * found = wanted() ? named(wanted()) : nullptr;
        const xq_cpu_kernels * best[8];
        xq_cpu_list(best, 8);
        return found ? *found : *best[0];
    }();
    return chosen;
}

const std::string & xq_cpu_refusal() {
    static const std::string why = [] {
        if (!wanted() || named(wanted())) {
            return std::string();
        }
        const xq_cpu_kernels * list[8];
        const int n = xq_cpu_list(list, 8);
        std::string names;
        for (int i = 0; i < n; ++i) {
            names += (i ? ", " : "") + std::string(list[i]->name);
        }
        return "xquant: XQUANT_CPU must name kernels that run on this machine: " + names + "; got '" + wanted() +
               "'; correct it, or unset it for the best ones";
    }();
    return why;
}
