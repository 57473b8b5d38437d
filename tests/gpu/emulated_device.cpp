// A ggml backend that stands in for CUDA: packed nodes go through its host code (kernels/gpu/cuda/nodes.cu) to emulated
// launches, all others to ggml's CPU backend. Its memory can be touched only while the backend itself is called, so
// whatever takes a device's address for the host's crashes.
#include "kernels/gpu/cuda/launch.h"

#include "kernels/gpu/cuda/backend.h"

#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "ggml-impl.h"

#include <sys/mman.h>

#include <cstdio>
#include <set>
#include <string>
#include <vector>

namespace {

bool packed_kernels;

// ---- memory ----

struct memory {
    void * base;
    size_t size;
};
std::set<memory *> & memories() {
    static std::set<memory *> all;
    return all;
}
int open_count;

void protect(int how) {
    for (memory * m : memories()) {
        mprotect(m->base, m->size, how);
    }
}

// While one lives, device memory can be read and written.
struct access {
    access()  { if (open_count++ == 0) { protect(PROT_READ | PROT_WRITE); } }
    ~access() { if (--open_count == 0) { protect(PROT_NONE); } }
};

memory * of(ggml_backend_buffer_t buffer) { return (memory *) buffer->context; }

void free_buffer(ggml_backend_buffer_t buffer) {
    munmap(of(buffer)->base, of(buffer)->size);
    memories().erase(of(buffer));
    delete of(buffer);
}
void * get_base(ggml_backend_buffer_t buffer) { return of(buffer)->base; }
void memset_tensor(ggml_backend_buffer_t, ggml_tensor * t, uint8_t value, size_t at, size_t n) { access a; memset((char *) t->data + at, value, n); }
void set_tensor(ggml_backend_buffer_t, ggml_tensor * t, const void * data, size_t at, size_t n) { access a; memcpy((char *) t->data + at, data, n); }
void get_tensor(ggml_backend_buffer_t, const ggml_tensor * t, void * data, size_t at, size_t n) { access a; memcpy(data, (const char *) t->data + at, n); }
void clear(ggml_backend_buffer_t buffer, uint8_t value) { access a; memset(of(buffer)->base, value, of(buffer)->size); }

const char * buft_name(ggml_backend_buffer_type_t buft) { return ggml_backend_dev_name(buft->device); }
size_t alignment(ggml_backend_buffer_type_t) { return 128; }

ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t buft, size_t size) {
    size = size ? size : 128;
    void * base = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) {
        return nullptr;
    }
    memory * m = new memory{base, size};
    memories().insert(m);
    ggml_backend_buffer_i i{};
    i.free_buffer = free_buffer;
    i.get_base = get_base;
    i.memset_tensor = memset_tensor;
    i.set_tensor = set_tensor;
    i.get_tensor = get_tensor;
    i.clear = clear;
    return ggml_backend_buffer_init(buft, i, m, size);
}

// ---- the backend ----

struct device {
    std::string name;
    ggml_backend_buffer_type buft{};
    ggml_backend_device dev{};
};
device & of(ggml_backend_dev_t dev) { return *(device *) dev->context; }

const char * backend_name(ggml_backend_t backend) { return of(backend->device).name.c_str(); }
void free_backend(ggml_backend_t backend) {
    ggml_backend_free((ggml_backend_t) backend->context);
    delete backend;
}

ggml_status compute(ggml_backend_t backend, ggml_cgraph * graph) {
    access a;
    for (int i = 0; i < graph->n_nodes; ++i) {
        ggml_tensor * node = graph->nodes[i];
        if (node->op == GGML_OP_CUSTOM) {
            std::vector<float> scratch(xq_cuda_scratch(node), NAN);
            if (xq_cuda_compute(node, scratch.data(), nullptr) != 0) {
                std::fprintf(stderr, "%s: %s\n", node->name, xq_emulator::last_error());
                return GGML_STATUS_FAILED;
            }
            continue;
        }
        int end = i + 1;
        while (end < graph->n_nodes && graph->nodes[end]->op != GGML_OP_CUSTOM) {
            ++end;
        }
        ggml_cgraph part = ggml_graph_view(graph, i, end);
        const ggml_status status = ggml_backend_graph_compute((ggml_backend_t) backend->context, &part);
        if (status != GGML_STATUS_SUCCESS) {
            return status;
        }
        i = end - 1;
    }
    return GGML_STATUS_SUCCESS;
}

// ---- the device ----

const char * dev_name(ggml_backend_dev_t dev) { return of(dev).name.c_str(); }
const char * dev_description(ggml_backend_dev_t) { return "an emulated device"; }
void dev_memory(ggml_backend_dev_t, size_t * free, size_t * total) { *free = *total = (size_t) 4 << 30; }
enum ggml_backend_dev_type dev_type(ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_GPU; }
void dev_props(ggml_backend_dev_t dev, ggml_backend_dev_props * props) {
    *props = {};
    props->name = dev_name(dev);
    props->description = dev_description(dev);
    props->type = dev_type(dev);
    dev_memory(dev, &props->memory_free, &props->memory_total);
}
ggml_backend_t dev_init(ggml_backend_dev_t dev, const char *) {
    ggml_backend_i i{};
    i.get_name = backend_name;
    i.free = free_backend;
    i.graph_compute = compute;
    static ggml_guid guid = {0x78, 0x71};
    return new ggml_backend{&guid, i, dev, ggml_backend_cpu_init()};
}
ggml_backend_buffer_type_t dev_buft(ggml_backend_dev_t dev) { return &of(dev).buft; }
bool supports_buft(ggml_backend_dev_t dev, ggml_backend_buffer_type_t buft) { return buft == &of(dev).buft; }
bool supports_op(ggml_backend_dev_t dev, const ggml_tensor * op) {
    for (const ggml_tensor * src : op->src) { // as the CUDA backend, no source of another device
        if (src && src->buffer && !ggml_backend_buffer_is_host(src->buffer) && !supports_buft(dev, src->buffer->buft)) {
            return false;
        }
    }
    if (op->op == GGML_OP_CUSTOM) {
        return packed_kernels && xq_cuda_supports(op, dev);
    }
    return ggml_backend_dev_supports_op(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU), op);
}

// ---- registration ----

std::vector<device *> & devices() {
    static std::vector<device *> all;
    return all;
}
const char * reg_name(ggml_backend_reg_t) { return "Emulated"; }
size_t reg_count(ggml_backend_reg_t) { return devices().size(); }
ggml_backend_dev_t reg_device(ggml_backend_reg_t, size_t i) { return &devices()[i]->dev; }
void * reg_address(ggml_backend_reg_t, const char * name) { return packed_kernels ? xq_cuda_address(name) : nullptr; }

} // namespace

// Adds n devices to ggml; without packed kernels they are those of any other backend.
extern "C" __attribute__((visibility("default"))) void xq_register_emulated(int n, int packed) {
    static ggml_backend_reg reg = {GGML_BACKEND_API_VERSION, {reg_name, reg_count, reg_device, reg_address}, nullptr};
    packed_kernels = packed != 0;
    for (int i = 0; i < n; ++i) {
        device * d = new device;
        d->name = "EMU" + std::to_string(i);
        d->dev.iface.get_name = dev_name;
        d->dev.iface.get_description = dev_description;
        d->dev.iface.get_memory = dev_memory;
        d->dev.iface.get_type = dev_type;
        d->dev.iface.get_props = dev_props;
        d->dev.iface.init_backend = dev_init;
        d->dev.iface.get_buffer_type = dev_buft;
        d->dev.iface.supports_op = supports_op;
        d->dev.iface.supports_buft = supports_buft;
        d->dev.reg = &reg;
        d->dev.context = d;
        d->buft.iface.get_name = buft_name;
        d->buft.iface.alloc_buffer = alloc_buffer;
        d->buft.iface.get_alignment = alignment;
        d->buft.device = &d->dev;
        devices().push_back(d);
    }
    ggml_backend_register(&reg);
}
