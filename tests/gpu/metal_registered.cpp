// ggml's Metal backend on the fake device, for a running libllama. Other ops than ours are the CPU backend's.
#include "metal_device.h"

#include "ggml-backend.h"
#include "ggml-metal.h"

#include <cstdlib>

extern "C" __attribute__((visibility("default"))) void xq_register_emulated(int n, int packed) {
    setenv("GGML_METAL_DEVICES", std::to_string(n).c_str(), 1);
    xq_fake.compiles = packed != 0;
    ggml_backend_register(ggml_backend_metal_reg());
}
