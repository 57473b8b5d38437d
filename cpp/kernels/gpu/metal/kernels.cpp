#include "kernels/gpu/metal/kernels.h"

#include <map>
#include <mutex>

// Sources as one text each (python/build/flatten.py). They are compiled on the device itself, with
// GGML_METAL_EMBED_LIBRARY and without: upstream's own library, embedded or default.metallib, stays as it is, and works
// where ours is refused.
extern const char xq_metal_attend[];
extern const char xq_metal_batch[];
extern const char xq_metal_seal[];

namespace {

const char * const NAMES[XQ_METAL_KERNELS] = {
    "kernel_xq_attend_1", "kernel_xq_attend_2", "kernel_xq_attend_4", "kernel_xq_attend_8", "kernel_xq_combine", "kernel_xq_store", "kernel_xq_seal",
    "kernel_xq_attend_batch_64", "kernel_xq_attend_batch_128", "kernel_xq_attend_batch_256",
};

// Threads that the compiled kernel may have, 0 if it does not compile.
int compiled(xq_metal_kernels & kernels, int i, ggml_metal_library_t library) {
    kernels.of[i] = ggml_metal_library_compile_pipeline(library, NAMES[i], NAMES[i], nullptr);
    return kernels.of[i].pipeline ? ggml_metal_pipeline_max_theads_per_threadgroup(kernels.of[i]) : 0;
}

// Outputs in registers cost threads: a device may lack enough of them for these kernels alone.
bool has_batch(ggml_metal_device_t device, xq_metal_kernels & kernels) {
    const ggml_metal_library_t library = ggml_metal_library_init_from_source(device, xq_metal_batch, true);
    bool all = library && kernels.limit >= XQG_BATCH_MEMORY_METAL;
    for (int i = XQ_METAL_BATCH_64; i < XQ_METAL_KERNELS && all; ++i) {
        all = compiled(kernels, i, library) >= XQ_METAL_THREADS;
    }
    return all;
}

std::string why_not(ggml_metal_device_t device, xq_metal_kernels & kernels) {
    const ggml_metal_device_props & props = *ggml_metal_device_get_props(device);
    kernels.limit = props.max_theadgroup_memory_size;
    if (!props.supports_gpu_family_apple7) { // the kernels count on 32 lanes, which Apple's GPUs have and others may not
        return "a GPU of family Apple7 (M1, A14) or newer; got " + std::string(props.desc);
    }
    // As long as the device: until the process ends.
    const ggml_metal_library_t attend = ggml_metal_library_init_from_source(device, xq_metal_attend, true);
    const ggml_metal_library_t seal   = ggml_metal_library_init_from_source(device, xq_metal_seal, true);
    if (!attend || !seal) {
        return "kernels that the system's Metal compiler takes; its message is in the log";
    }
    for (int i = 0; i < XQ_METAL_BATCH_64; ++i) {
        const int threads = compiled(kernels, i, i == XQ_METAL_SEAL ? seal : attend);
        if (!kernels.of[i].pipeline) {
            return i == XQ_METAL_SEAL ? "Metal 3.2 (macOS 15, iOS 18) or newer, for arithmetic without fast math"
                                      : std::string("the kernel ") + NAMES[i] + ", which the system's Metal compiler refused; its message is in the log";
        }
        if (threads < XQ_METAL_THREADS) {
            return "threadgroups of " + std::to_string(XQ_METAL_THREADS) + " threads; got at most " + std::to_string(threads) + " for " + NAMES[i];
        }
    }
    kernels.batch = has_batch(device, kernels);
    return "";
}

size_t padded(size_t bytes) { return (bytes + 15) & ~(size_t) 15; }

} // namespace

const xq_metal_kernels & xq_metal_kernels_of(ggml_metal_device_t device) {
    static std::mutex mutex;
    static std::map<ggml_metal_device_t, xq_metal_kernels> all;
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = all.find(device);
    if (found != all.end()) {
        return found->second;
    }
    xq_metal_kernels & kernels = all[device];
    kernels.refusal = why_not(device, kernels);
    return kernels;
}

size_t xq_metal_attend_bytes(const xqg_layer & l, int rows) { return padded(xqg_attend_bytes(l.k, l.v, l.dk, rows, XQ_METAL_QUAD)); }
size_t xq_metal_seal_bytes(const xqg_layer & l) { return padded(xqg_seal_bytes(l.k, XQ_METAL_RANKED)); }
int xq_metal_rows(const xqg_layer & l, int wanted, size_t limit) {
    return xqg_rows(l.k, l.v, l.dk, wanted, XQ_METAL_QUAD, limit & ~(size_t) 15);
}

const char * xq_metal_refusal(ggml_metal_device_t device, const xq_node_layer & n) {
    if (!xq_head_dim_fits(n.dk) || !xq_head_dim_fits(n.dv)) {
        return "head dims that are " XQ_HEAD_DIM_RULE;
    }
    const xq_metal_kernels & kernels = xq_metal_kernels_of(device);
    if (!kernels.refusal.empty()) {
        return kernels.refusal.c_str();
    }
    const xqg_layer layer = xqg_layer_of(n);
    const size_t attend = xq_metal_attend_bytes(layer, 1), seal = xq_metal_seal_bytes(layer), most = attend > seal ? attend : seal;
    if (most > kernels.limit) {
        static thread_local std::string text;
        text = "a layer whose threadgroups take at most " + std::to_string(kernels.limit) + " bytes of memory; got " + std::to_string(most) +
               " for head dims " + std::to_string(n.dk) + " and " + std::to_string(n.dv);
        return text.c_str();
    }
    return nullptr;
}
