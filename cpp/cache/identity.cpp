#include "cache/identity.h"

#include "cache/section.h"

#include "ggml-backend.h"
#include "llama-model.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <string>

namespace {

constexpr size_t SLICE = 256; // bytes read at three places of a tensor

// Some buffers hold the same weights in another order (repacked for the CPU, split over devices): they cannot be read.
bool readable(const ggml_tensor * t) {
    if (!t->buffer || !t->data) {
        return false; // a model without weights
    }
    ggml_backend_buffer_type_t buft = ggml_backend_buffer_get_type(t->buffer);
    ggml_backend_dev_t dev = ggml_backend_buft_get_device(buft);
    const bool device = dev && ggml_backend_dev_type(dev) != GGML_BACKEND_DEVICE_TYPE_CPU;
    return ggml_backend_buffer_is_host(t->buffer) || (device && !std::strstr(ggml_backend_buft_name(buft), "Split"));
}

uint32_t sum_of(uint32_t crc, const ggml_tensor * t) {
    const size_t bytes = ggml_nbytes(t), n = std::min(bytes, SLICE);
    uint8_t slice[SLICE];
    for (const size_t at : {(size_t) 0, (bytes - n)/2, bytes - n}) {
        ggml_backend_tensor_get(t, slice, at, n);
        crc = xq_crc32(crc, slice, n);
    }
    return crc;
}

} // namespace

bool xq_identity::operator==(const xq_identity & o) const {
    bool same = model == o.model;
    for (size_t i = 0; i < parts.size(); ++i) {
        same = same && (parts[i] == o.parts[i] || parts[i] == 0 || o.parts[i] == 0);
    }
    return same;
}

xq_identity xq_identify(const llama_model & model) {
    std::map<std::string, const ggml_tensor *> tensors; // by name: their order follows from where they lie
    for (const auto & [name, t] : model.tensors_by_name) {
        const ggml_tensor *& known = tensors[name];
        known = known && readable(known) ? known : t; // an embedding may be there twice
    }
    xq_identity id;
    std::vector<const ggml_tensor *> matrices;
    for (const auto & [name, t] : tensors) {
        const std::string what = name + " " + ggml_type_name(t->type) + " " + std::to_string(t->ne[0]) + " " +
            std::to_string(t->ne[1]) + " " + std::to_string(t->ne[2]) + "\n";
        id.model = xq_crc32(id.model, what.data(), what.size());
        if (ggml_n_dims(t) > 1 && name != "token_embd.weight") {
            matrices.push_back(t);
        } else if (readable(t)) {
            id.model = sum_of(id.model, t);
        }
    }
    for (size_t i = 0; i < id.parts.size() && !matrices.empty(); ++i) {
        const ggml_tensor * t = matrices[i*matrices.size()/id.parts.size()];
        id.parts[i] = readable(t) ? std::max(1u, sum_of(0, t)) : 0;
    }
    return id;
}
