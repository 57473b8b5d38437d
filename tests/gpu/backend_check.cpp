// backend_check DEVICE [SCENARIO]: the node scenarios, or one of them, on a registered device of ggml, against the CPU backend.
// Codes, metadata and pages must have the same bytes, outputs be near each other.
#include "nodes_world.h"

#include <chrono>

namespace {

const scenario MORE[] = {
    {"presets", "", 64, 64, 3, 3, 97, 1, 1, 1, 0, 0.0f, 0.0f, false},
    {"one bit", "k_bits=1.3,v_bits=1", 96, 80, 2, 3, 161, 2, 1, 1, 0, 0.0f, 0.0f, true},
    {"wide keys", "k_bits=6,v_bits=3", 128, 128, 1, 8, 129, 1, 1, 1, 0, 30.0f, 0.0f, false},
    {"fitted followers", "k_alloc=uniform,v_fit=minmax,k_share_from=0,v_share_from=0,follower=ls", 64, 64, 2, 2, 100, 1, 1, 1, 0, 0.0f, 0.0f, false},
    {"f16 metadata", "k_alloc=uniform,k_bits=4,v_bits=4,k_meta=f16,v_fit=minmax,v_rot=none", 72, 40, 2, 1, 97, 2, 1, 1, 0, 0.0f, 0.0f, false},
};

void check(const scenario & s, ggml_backend_t cpu, ggml_backend_t device) {
    check_context = s.name;
    const auto start = std::chrono::steady_clock::now();
    world want(s, cpu), got(s, device);
    compare(want, got);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    std::printf("%s: %.1f s, NMSE", s.name, took.count());
    for (size_t i = 0; i < want.outputs.size(); ++i) {
        std::printf(" %.1e", nmse(got.outputs[i], want.outputs[i]));
    }
    std::printf("\n");
    std::fflush(stdout);
}

} // namespace

int main(int argc, char ** argv) {
    ggml_backend_load_all();
    ggml_backend_dev_t device = argc > 1 ? ggml_backend_dev_by_name(argv[1]) : nullptr;
    if (!device) {
        std::printf("no device of that name; there are:\n");
        for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
            std::printf("  %s\n", ggml_backend_dev_name(ggml_backend_dev_get(i)));
        }
        return 77;
    }
    std::printf("%s\n", ggml_backend_dev_description(device));
    ggml_backend_t gpu = ggml_backend_dev_init(device, nullptr), cpu = ggml_backend_cpu_init();
    std::vector<scenario> all(std::begin(SCENARIOS), std::end(SCENARIOS));
    all.insert(all.end(), std::begin(MORE), std::end(MORE));
    int ran = 0;
    for (const scenario & s : all) {
        if (argc < 3 || std::string(argv[2]) == s.name) {
            check(s, cpu, gpu);
            ++ran;
        }
    }
    CHECK(ran > 0, "no such scenario");
    return check_report();
}
