// Every implementation of the CPU primitives that runs here against the reference: what is packed byte for byte, what
// is computed within the budgets of tests/kernels/budgets.py (BUDGET_*, given by the compiler's command line).
//
//   test_neon [NAME ...]   test these, or all
//   test_neon --list       print all that run here, best first, then the one that xq_cpu() takes
#include "strips.h"

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>

static void crashed(int signal) {
    std::printf("signal %d  [%s]\n", signal, check_context.c_str());
    std::fflush(stdout);
    std::_Exit(3);
}

int main(int argc, char ** argv) {
    for (const int s : {SIGSEGV, SIGBUS, SIGILL, SIGFPE}) {
        std::signal(s, crashed);
    }
    const xq_cpu_kernels * list[8];
    const int n = xq_cpu_list(list, 8);
    if (argc == 2 && std::strcmp(argv[1], "--list") == 0) {
        for (int i = 0; i < n; ++i) {
            std::printf("%s ", list[i]->name);
        }
        std::printf("%s\n", xq_cpu().name);
        return 0;
    }
    for (int i = 0; i < n; ++i) {
        const xq_cpu_kernels & k = *list[i];
        if (argc > 1 && std::none_of(argv + 1, argv + argc, [&k](const char * name) { return std::strcmp(k.name, name) == 0; })) {
            continue;
        }
        const long before = cases;
        digest = 0xcbf29ce484222325ull;
        worst.clear();
        test_uniform(k);
        test_ranked(k);
        test_unbiased(k);
        test_metadata(k);
        test_mac(k);
        test_rows(k);
        test_floats(k);
        test_layers(k);
        std::printf("%s: %ld cases, digest %016llx\n", k.name, cases - before, (unsigned long long) digest);
        for (const auto & [test, nmse] : worst) {
            std::printf("    worst NMSE of %s: %.1e\n", test.c_str(), nmse);
        }
        std::fflush(stdout);
    }
    return check_report();
}
