// What a context and its model allocate, or would: with llama_model_params.no_alloc the same code sizes every buffer and
// allocates none, so that a plan made before loading and the figures of a loaded model cannot differ.
#include "capi/xquant.h"

#include "cache/text.h"
#include "capi/give.h"

#include "ggml-backend.h"
#include "llama-context.h"
#include "llama-ext.h"
#include "llama-memory-hybrid.h"
#include "llama-memory-hybrid-iswa.h"
#include "llama-memory-recurrent.h"

namespace {

size_t recurrent_bytes(llama_memory_i * memory) {
    const llama_memory_recurrent * recurrent = dynamic_cast<llama_memory_recurrent *>(memory);
    if (auto * hybrid = dynamic_cast<llama_memory_hybrid *>(memory)) {
        recurrent = hybrid->get_mem_recr();
    } else if (auto * hybrid = dynamic_cast<llama_memory_hybrid_iswa *>(memory)) {
        recurrent = hybrid->get_mem_recr();
    }
    size_t bytes = 0;
    if (recurrent) {
        for (const auto & [buft, size] : recurrent->memory_breakdown()) {
            bytes += size;
        }
    }
    return bytes;
}

// What a device has free; host memory is the system's to tell.
size_t free_bytes(ggml_backend_buffer_type_t buft) {
    size_t free = 0, total = 0;
    if (ggml_backend_dev_t dev = ggml_backend_buft_get_device(buft); dev && !ggml_backend_buft_is_host(buft)) {
        ggml_backend_dev_memory(dev, &free, &total);
    }
    return free;
}

} // namespace

int xq_memory(const struct llama_context * ctx, char * buf, int size) {
    xq_text out;
    out << "{\"recurrent\":" << recurrent_bytes(llama_get_memory(ctx)) << ",\"buffers\":[";
    const char * comma = "";
    for (const auto & [buft, bytes] : llama_get_memory_breakdown(ctx)) {
        out << comma << "{\"name\":\"" << ggml_backend_buft_name(buft) << "\",\"host\":"
            << (ggml_backend_buft_is_host(buft) ? "true" : "false") << ",\"model\":" << bytes.model
            << ",\"context\":" << bytes.context << ",\"compute\":" << bytes.compute
            << ",\"free\":" << free_bytes(buft) << "}";
        comma = ",";
    }
    out << "]}";
    return xq_give(out.str(), buf, size);
}
