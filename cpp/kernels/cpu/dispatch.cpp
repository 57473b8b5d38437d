#include "kernels/cpu/kernels.h"

#include <cstdlib>
#include <cstring>

int xq_cpu_list(const xq_cpu_kernels ** out, int max) {
    static const xq_cpu_kernels * const all[] = {
#if defined(__x86_64__) || defined(_M_X64)
        &xq_kernels_avx2,
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
