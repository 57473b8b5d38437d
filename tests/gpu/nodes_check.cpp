// The node scenarios (nodes_world.h) run twice: by ggml's CPU backend with the nodes' callbacks, and by the host code of a
// device with its launches on the emulator (nodes_device.h). Prints a hash of the outputs of the second run.
#include "nodes_device.h"
#include "nodes_world.h"

namespace {

uint64_t hash = 1469598103934665603u;
void add(const ggml_tensor * t) {
    for (const uint8_t b : bytes(t)) {
        hash = (hash ^ b)*1099511628211u;
    }
}

void check(const scenario & s) {
    check_context = s.name;
    world cpu(s, xq_nodes_cpu()), device(s, xq_nodes_backend(), xq_nodes_run);
    compare(cpu, device);
    for (const ggml_tensor * output : device.outputs) {
        add(output);
    }
}

} // namespace

ggml_backend_t xq_nodes_cpu() {
    static ggml_backend_t backend = ggml_backend_cpu_init();
    return backend;
}

ggml_context * xq_nodes_context() { return world::context(); }

xq_node_layer xq_plain_layer(int d) {
    xq_node_layer l{};
    l.dk = l.dv = d;
    l.n_head_kv = 1;
    l.k = xq_key_side(xq_config_parse(""), 2, d, false);
    l.v = xq_value_side(xq_config_parse(""), 2, d, false);
    return l;
}

int main() {
    xq_nodes_refusals();
    for (const scenario & s : SCENARIOS) {
        check(s);
    }
    std::printf("outputs %016llx\n", (unsigned long long) hash);
    return check_report();
}
