#include "capi/xquant.h"
#include "capi/give.h"

#include "cache/cache.h"
#include "capi/caches.h"
#include "graph/node.h"
#include "kernels/cpu/kernels.h"

#include "ggml-backend.h"
#include "llama-context.h"
#include "llama-kv-cache.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <string>

int xq_abi_version(void) { return 1; }
int xq_ggml_type(void) { return GGML_TYPE_XQ; }

int xq_config_set(const char * text) {
    try {
        xq_set_error(text ? xq_cpu_refusal() : "");
        if (!xq_error().empty()) {
            return -1;
        }
        xq_config_set_thread(text);
        return 0;
    } catch (const std::exception & e) {
        xq_set_error(e.what());
        return -1;
    }
}

const char * xq_last_error(void) { return xq_error().c_str(); }

int xq_report(const struct llama_context * ctx, char * buf, int size) {
    const xq_caches c = xq_caches_of(llama_get_memory(ctx));
    if (!c.main || !c.main->get_xq()) {
        return -1;
    }
    uint32_t tokens = 0;
    for (uint32_t s = 0; s < c.main->get_n_stream(); ++s) {
        tokens += c.main->get_cells((llama_seq_id) s).get_used();
    }
    size_t unpacked = 0;
    const xq_cache * window = c.window ? c.window->get_xq() : nullptr;
    if (c.window && !window) {
        for (const auto & [buft, bytes] : c.window->memory_breakdown()) {
            unpacked += bytes;
        }
    }
    const int n_threads = llama_n_threads(const_cast<llama_context *>(ctx));
    return xq_give(c.main->get_xq()->report(tokens, unpacked, n_threads, window), buf, size);
}

int xq_gpu_backends(char * buf, int size) {
    std::string text;
    for (size_t i = 0; i < ggml_backend_reg_count(); ++i) {
        ggml_backend_reg_t reg = ggml_backend_reg_get(i);
        if (ggml_backend_reg_get_proc_address(reg, XQ_LAYER_CHECK)) {
            text += (text.empty() ? "" : ",") + std::string(ggml_backend_reg_name(reg));
        }
    }
    return xq_give(text, buf, size);
}

bool xq_abort_if(void * data) {
    return static_cast<const std::atomic<int> *>(data)->load(std::memory_order_relaxed) != 0;
}

int xq_cpu_implementations(char * buf, int size) {
    if (!xq_cpu_refusal().empty()) {
        xq_set_error(xq_cpu_refusal());
        return -1;
    }
    const xq_cpu_kernels * list[8];
    const int n = xq_cpu_list(list, 8);
    std::string text = xq_cpu().name;
    for (int i = 0; i < n; ++i) {
        if (list[i] != &xq_cpu()) {
            text += std::string(",") + list[i]->name;
        }
    }
    return xq_give(text, buf, size);
}
