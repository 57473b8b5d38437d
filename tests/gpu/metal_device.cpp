// Runs what ggml's Metal backend encodes, and fails where Metal would go wrong without saying so:
//   every parameter of a kernel must be bound, at its index and aligned, and nothing else
//   threadgroup memory: a multiple of 16, within the limit, and exactly where a kernel has it
//   a kernel sees each tensor as an allocation of its own, so AddressSanitizer sees every access outside
//   dispatches between two barriers run in reverse: an order that nothing enforces is not kept
//   private buffers have addresses that nobody can read
#include "metal_device.h"

#include "kernels/gpu/emulated/emulator.h"

#include "ggml-backend-impl.h"
#include "ggml-impl.h"
#include "ggml-metal-common.h"
#include "ggml-metal-context.h"
#include "ggml-metal-fusion.h"
#include "ggml-metal-ops.h"

#include <cstdarg>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>

xq_fake_traits xq_fake;

namespace {

[[noreturn]] void fail(const char * format, ...) {
    va_list args;
    va_start(args, format);
    std::fputs("fake Metal device: ", stderr);
    std::vfprintf(stderr, format, args);
    std::fputc('\n', stderr);
    std::exit(3);
}

std::vector<const xq_fake_library *> & libraries() {
    static std::vector<const xq_fake_library *> all;
    return all;
}

uint32_t hash_of(const char * text) {
    uint32_t h = 2166136261u;
    for (; *text; ++text) {
        h = (h ^ (uint8_t) *text)*16777619u;
    }
    return h;
}

} // namespace

xq_fake_library::xq_fake_library(size_t length, uint32_t hash, std::vector<xq_fake_kernel> kernels)
    : length(length), hash(hash), kernels(std::move(kernels)) {
    libraries().push_back(this);
}

struct ggml_metal_device {
    xq_fake_traits traits;
    ggml_metal_device_props props{};
    ggml_metal_library_t library = nullptr;
    ggml_metal_fusion_info * fusion = nullptr;
    uintptr_t next_address = 0x400;
};
struct ggml_metal_library {
    ggml_metal_device_t device;
    const xq_fake_library * source; // null: upstream's, which has no kernel here
    ggml_metal_pipelines_t pipelines;
};
struct ggml_metal_pipeline {
    const xq_fake_kernel * kernel;
    ggml_metal_device_t device;
};
struct ggml_metal_buffer {
    ggml_metal_device_t device;
    bool shared, owned;
    char * address; // what ggml is told
    char * memory;  // where the bytes are
    size_t size;
    std::unique_ptr<char[]> owner;
};

// ---- libraries and pipelines ----

ggml_metal_library_t ggml_metal_library_init_from_source(ggml_metal_device_t device, const char * source, bool) {
    for (const xq_fake_library * l : libraries()) {
        if (device->traits.compiles && l->length == std::strlen(source) && l->hash == hash_of(source)) {
            return new ggml_metal_library{device, l, ggml_metal_pipelines_init()};
        }
    }
    return nullptr;
}
void ggml_metal_library_free(ggml_metal_library_t lib) {
    ggml_metal_pipelines_free(lib->pipelines);
    delete lib;
}
ggml_metal_device_t ggml_metal_library_get_device(ggml_metal_library_t lib) { return lib->device; }

ggml_metal_pipeline_with_params ggml_metal_library_get_pipeline(ggml_metal_library_t lib, const char * name) {
    ggml_metal_pipeline_with_params p{};
    p.pipeline = ggml_metal_pipelines_get(lib->pipelines, name);
    return p;
}
ggml_metal_pipeline_with_params ggml_metal_library_compile_pipeline(ggml_metal_library_t lib, const char * base, const char * name, ggml_metal_cv_t) {
    ggml_metal_pipeline_with_params p = ggml_metal_library_get_pipeline(lib, name);
    for (size_t i = 0; lib->source && !p.pipeline && i < lib->source->kernels.size(); ++i) {
        const xq_fake_kernel & k = lib->source->kernels[i];
        if (k.name == base && k.name != lib->device->traits.without) {
            p.pipeline = new ggml_metal_pipeline{&k, lib->device};
            ggml_metal_pipelines_add(lib->pipelines, name, p.pipeline);
        }
    }
    return p;
}
void ggml_metal_pipeline_free(ggml_metal_pipeline_t p) { delete p; }
int ggml_metal_pipeline_max_theads_per_threadgroup(ggml_metal_pipeline_with_params p) { return p.pipeline->device->traits.max_threads; }

ggml_metal_cv_t ggml_metal_cv_init(void) { return nullptr; }
void ggml_metal_cv_free(ggml_metal_cv_t) {}
void ggml_metal_cv_set_int16(ggml_metal_cv_t, int16_t, int32_t) {}
void ggml_metal_cv_set_int32(ggml_metal_cv_t, int32_t, int32_t) {}
void ggml_metal_cv_set_bool(ggml_metal_cv_t, bool, int32_t) {}

// ---- buffers ----

namespace {

// Where a tensor that a node's code asked for lies. A bound address belongs to the one that starts there, or else to the
// smallest around it.
struct range {
    ggml_metal_buffer_t buffer;
    size_t at, size;
    bool operator<(const range & o) const {
        return buffer != o.buffer ? buffer < o.buffer : at != o.at ? at < o.at : size < o.size;
    }
};
thread_local std::vector<range> asked;

range range_around(const ggml_metal_buffer_id & id) {
    const range * best = nullptr;
    for (const range & r : asked) {
        const bool around = r.buffer == id.metal && id.offs >= r.at && id.offs < r.at + r.size;
        if (around && (!best || (best->at != id.offs && (r.at == id.offs || r.size < best->size)))) {
            best = &r;
        }
    }
    if (!best) {
        fail("offset %zu is in no tensor of the node", id.offs);
    }
    return *best;
}

char * bytes_of(ggml_metal_buffer_t buf, const ggml_tensor * t, size_t offset) { return buf->memory + ((char *) t->data - buf->address) + offset; }

} // namespace

ggml_metal_buffer_t ggml_metal_buffer_init(ggml_metal_device_t device, size_t size, bool shared) {
    auto * b = new ggml_metal_buffer{device, shared && device->props.use_shared_buffers, true, nullptr, nullptr, size, nullptr};
    b->owner.reset(new char[size + 64]);
    b->memory = (char *) (((uintptr_t) b->owner.get() + 63) & ~(uintptr_t) 63);
    b->address = b->shared ? b->memory : (char *) device->next_address;
    device->next_address += (size + 4095) & ~(size_t) 4095;
    std::memset(b->memory, 0xFF, size);
    return b;
}
ggml_metal_buffer_t ggml_metal_buffer_map(ggml_metal_device_t device, void * ptr, size_t size, size_t) {
    return new ggml_metal_buffer{device, true, false, (char *) ptr, (char *) ptr, size, nullptr};
}
void ggml_metal_buffer_free(ggml_metal_buffer_t b) { delete b; }
void * ggml_metal_buffer_get_base(ggml_metal_buffer_t b) { return b->address; }
bool ggml_metal_buffer_is_shared(ggml_metal_buffer_t b) { return b->shared; }
void ggml_metal_buffer_memset_tensor(ggml_metal_buffer_t b, ggml_tensor * t, uint8_t v, size_t at, size_t n) { std::memset(bytes_of(b, t, at), v, n); }
void ggml_metal_buffer_set_tensor(ggml_metal_buffer_t b, ggml_tensor * t, const void * data, size_t at, size_t n) { std::memcpy(bytes_of(b, t, at), data, n); }
void ggml_metal_buffer_get_tensor(ggml_metal_buffer_t b, const ggml_tensor * t, void * data, size_t at, size_t n) { std::memcpy(data, bytes_of(b, t, at), n); }
bool ggml_metal_buffer_cpy_tensor(ggml_metal_buffer_t b, const ggml_tensor * src, ggml_tensor * dst) {
    std::memcpy(bytes_of(b, dst, 0), bytes_of((ggml_metal_buffer_t) src->buffer->context, src, 0), ggml_nbytes(src));
    return true;
}
void ggml_metal_buffer_clear(ggml_metal_buffer_t b, uint8_t value) { std::memset(b->memory, value, b->size); }

ggml_metal_buffer_id ggml_metal_buffer_get_id(ggml_metal_buffer_t b, const ggml_tensor * t) {
    const size_t at = (char *) t->data - b->address;
    const size_t size = t->view_src ? ggml_nbytes(t) : ggml_backend_buft_get_alloc_size(t->buffer->buft, t);
    if (at + size > b->size) {
        fail("tensor '%s' is outside its buffer", t->name);
    }
    asked.push_back({b, at, size});
    return {b, at};
}

// ---- encoding ----

struct ggml_metal_encoder {
    bool concurrent;
    ggml_metal_pipeline_t pipeline = nullptr;
    std::map<int, std::pair<range, size_t>> buffers; // and the offset into the range
    std::map<int, std::string> bytes;
    size_t shared = 0;
    std::vector<std::function<void()>> waiting; // for the next barrier
};

namespace {

void flush(ggml_metal_encoder_t e) {
    for (auto i = e->waiting.rbegin(); i != e->waiting.rend(); ++i) {
        (*i)();
    }
    e->waiting.clear();
}

void check_arguments(ggml_metal_encoder_t e, const xq_fake_kernel & k) {
    size_t values = 0;
    for (const xq_fake_argument & a : k.arguments) {
        if (a.by_value) {
            ++values;
            if (!e->bytes.count(a.index) || e->bytes[a.index].size() != a.size) {
                fail("%s: argument %d wants %zu bytes", k.name.c_str(), a.index, a.size);
            }
            continue;
        }
        const auto found = e->buffers.find(a.index);
        if (found == e->buffers.end()) {
            fail("%s: no buffer at index %d", k.name.c_str(), a.index);
        }
        if ((found->second.first.at + found->second.second) % a.size != 0) {
            fail("%s: buffer %d at an offset that is no multiple of %zu", k.name.c_str(), a.index, a.size);
        }
    }
    if (e->bytes.size() + e->buffers.size() != k.arguments.size() || e->bytes.size() != values) {
        fail("%s: more is bound than it has parameters", k.name.c_str());
    }
}

void check_launch(ggml_metal_encoder_t e, const xq_fake_kernel & k, const xq_grid & grid) {
    const ggml_metal_device_t device = e->pipeline->device;
    if (k.shared != (e->shared > 0) || e->shared % 16 != 0 || e->shared > device->traits.limit) {
        fail("%s: %zu bytes of threadgroup memory of %zu", k.name.c_str(), e->shared, device->traits.limit);
    }
    if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.threads < 1 || grid.threads > device->traits.max_threads) {
        fail("%s: a grid of %d x %d x %d with %d threads", k.name.c_str(), grid.x, grid.y, grid.z, grid.threads);
    }
}

// Each tensor copied to an allocation of just its size, and what was written copied back.
void execute(const xq_fake_kernel & k, const std::map<int, std::pair<range, size_t>> & buffers, const std::map<int, std::string> & bytes,
             const xq_grid & grid) {
    std::map<range, std::unique_ptr<char[]>> copies;
    std::map<range, bool> written;
    xq_bound bound{};
    for (const auto & b : buffers) {
        const range & r = b.second.first;
        std::unique_ptr<char[]> & copy = copies[r];
        if (!copy) {
            copy.reset(new char[r.size]);
            std::memcpy(copy.get(), r.buffer->memory + r.at, r.size);
        }
        bound.at[b.first] = copy.get() + b.second.second;
    }
    std::vector<std::unique_ptr<char[]>> values;
    for (const auto & b : bytes) {
        values.emplace_back(new char[b.second.size()]);
        std::memcpy(values.back().get(), b.second.data(), b.second.size());
        bound.at[b.first] = values.back().get();
    }
    for (const xq_fake_argument & a : k.arguments) {
        if (!a.by_value && a.writes) {
            written[buffers.at(a.index).first] = true;
        }
    }
    if (!xq_emulator::launch(grid, [&] { k.run(bound); })) {
        fail("%s: %s", k.name.c_str(), xq_emulator::last_error());
    }
    for (const auto & w : written) {
        std::memcpy(w.first.buffer->memory + w.first.at, copies[w.first].get(), w.first.size);
    }
}

} // namespace

ggml_metal_encoder_t ggml_metal_encoder_init(ggml_metal_cmd_buf_t, bool concurrent) {
    auto * e = new ggml_metal_encoder;
    e->concurrent = concurrent;
    return e;
}
void ggml_metal_encoder_free(ggml_metal_encoder_t e) { delete e; }
void ggml_metal_encoder_debug_group_push(ggml_metal_encoder_t, const char *) {}
void ggml_metal_encoder_debug_group_pop(ggml_metal_encoder_t) {}
void ggml_metal_encoder_set_pipeline(ggml_metal_encoder_t e, ggml_metal_pipeline_with_params p) {
    if (!p.pipeline) {
        fail("no pipeline");
    }
    e->pipeline = p.pipeline;
}
void ggml_metal_encoder_set_bytes(ggml_metal_encoder_t e, void * data, size_t size, int idx) { e->bytes[idx].assign((const char *) data, size); }
void ggml_metal_encoder_set_buffer(ggml_metal_encoder_t e, ggml_metal_buffer_id id, int idx) {
    const range r = range_around(id);
    e->buffers[idx] = {r, id.offs - r.at};
}
void ggml_metal_encoder_set_threadgroup_memory_size(ggml_metal_encoder_t e, size_t size, int) { e->shared = size; }
void ggml_metal_encoder_dispatch_threadgroups(ggml_metal_encoder_t e, int x, int y, int z, int tx, int ty, int tz) {
    const xq_fake_kernel & k = *e->pipeline->kernel;
    const xq_grid grid = {x, y, z, tx*ty*tz, e->shared};
    check_arguments(e, k);
    check_launch(e, k, grid);
    const auto buffers = e->buffers;
    const auto bytes = e->bytes;
    e->waiting.push_back([&k, buffers, bytes, grid] { execute(k, buffers, bytes, grid); });
    e->buffers.clear();
    e->bytes.clear();
    e->shared = 0;
    if (!e->concurrent) {
        flush(e);
    }
}
void ggml_metal_encoder_memory_barrier(ggml_metal_encoder_t e) { flush(e); }
void ggml_metal_encoder_end_encoding(ggml_metal_encoder_t e) { flush(e); }

// ---- the device ----

ggml_metal_device_t ggml_metal_device_init(int device, int) {
    auto * d = new ggml_metal_device;
    d->traits = xq_fake;
    d->props.device = device;
    std::snprintf(d->props.name, sizeof(d->props.name), "MTL%d", device);
    std::snprintf(d->props.desc, sizeof(d->props.desc), "%s", "a fake Metal device");
    d->props.max_buffer_size = (size_t) 1 << 40;
    d->props.max_working_set_size = (size_t) 4 << 30;
    d->props.max_theadgroup_memory_size = d->traits.limit;
    d->props.has_simdgroup_reduction = d->props.supports_gpu_family_apple7 = d->traits.apple7;
    d->props.use_shared_buffers = d->props.has_unified_memory = d->traits.unified;
    d->props.op_offload_min_batch_size = 1 << 30;
    d->library = new ggml_metal_library{d, nullptr, ggml_metal_pipelines_init()};
    d->fusion = ggml_metal_fusion_info_init(true, 0);
    return d;
}
void ggml_metal_device_free(ggml_metal_device_t d) {
    ggml_metal_library_free(d->library);
    ggml_metal_fusion_info_free(d->fusion);
    delete d;
}
void * ggml_metal_device_get_obj(ggml_metal_device_t) { return nullptr; }
void * ggml_metal_device_get_queue(ggml_metal_device_t) { return nullptr; }
ggml_metal_library_t ggml_metal_device_get_library(ggml_metal_device_t d) { return d->library; }
void ggml_metal_device_get_memory(ggml_metal_device_t d, size_t * free, size_t * total) { *free = *total = d->props.max_working_set_size; }
const ggml_metal_device_props * ggml_metal_device_get_props(ggml_metal_device_t d) { return &d->props; }
ggml_metal_fusion_info * ggml_metal_device_get_fusion_info(ggml_metal_device_t d) { return d->fusion; }
const char * ggml_metal_device_id_token(ggml_metal_device_id) { return "GGML_METAL_DEVICE_GENERIC"; }

// Of upstream's ops the device has those that do nothing. Upstream asks before it encodes a node.
bool ggml_metal_device_supports_op(ggml_metal_device_t, const ggml_tensor * op) {
    asked.clear();
    return ggml_op_is_empty(op->op);
}

struct ggml_metal_event { int value; };
ggml_metal_event_t ggml_metal_device_event_init(ggml_metal_device_t) { return new ggml_metal_event{0}; }
void ggml_metal_device_event_free(ggml_metal_device_t, ggml_metal_event_t e) { delete e; }
void ggml_metal_device_event_synchronize(ggml_metal_device_t, ggml_metal_event_t) {}

// ---- the context: everything is done when a call returns ----

struct ggml_metal { ggml_metal_device_t device; };
ggml_metal_t ggml_metal_init(ggml_metal_device_t device) { return new ggml_metal{device}; }
void ggml_metal_free(ggml_metal_t ctx) { delete ctx; }
const char * ggml_metal_get_name(ggml_metal_t ctx) { return ctx->device->props.name; }
void ggml_metal_synchronize(ggml_metal_t) {}
void ggml_metal_set_tensor_async(ggml_metal_t, ggml_tensor * t, const void * data, size_t at, size_t n) { ggml_backend_tensor_set(t, data, at, n); }
void ggml_metal_get_tensor_async(ggml_metal_t, const ggml_tensor * t, void * data, size_t at, size_t n) { ggml_backend_tensor_get(t, data, at, n); }
bool ggml_metal_cpy_tensor_async(ggml_metal_t, ggml_metal_t, const ggml_tensor *, ggml_tensor *) { return false; }
void ggml_metal_event_record(ggml_metal_t, ggml_metal_event_t) {}
void ggml_metal_event_wait(ggml_metal_t, ggml_metal_event_t) {}
ggml_metal_event_t ggml_metal_get_ev_cpy(ggml_metal_t) { return nullptr; }
void ggml_metal_set_n_cb(ggml_metal_t, int) {}
void ggml_metal_set_abort_callback(ggml_metal_t, ggml_abort_callback, void *) {}
bool ggml_metal_supports_family(ggml_metal_t, int) { return false; }
void ggml_metal_capture_next_compute(ggml_metal_t) {}
void ggml_metal_graph_optimize(ggml_metal_t, ggml_cgraph * gf) { ggml_graph_optimize(gf); }

// In two encoders, as upstream cuts a graph into command buffers.
ggml_status ggml_metal_graph_compute(ggml_metal_t ctx, ggml_cgraph * gf) {
    for (int half = 0; half < 2; ++half) {
        const int middle = gf->n_nodes/2;
        ggml_metal_op_t op = ggml_metal_op_init(ctx->device, nullptr, gf, ctx->device->fusion, half ? middle : 0, half ? gf->n_nodes : middle, true, false, 0);
        for (int i = 0; i < ggml_metal_op_n_nodes(op);) {
            i += ggml_metal_op_encode(op, i);
        }
        ggml_metal_op_free(op);
    }
    return GGML_STATUS_SUCCESS;
}
