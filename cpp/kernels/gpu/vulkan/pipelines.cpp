#include "kernels/gpu/vulkan/pipelines.h"

#include "kernels/gpu/vulkan/shared_words.h" // generated, as the shaders are

namespace {

const uint32_t ATTEND_1[] = {
#include "kernels/gpu/vulkan/attend_1.inc"
};
const uint32_t ATTEND_2[] = {
#include "kernels/gpu/vulkan/attend_2.inc"
};
const uint32_t ATTEND_4[] = {
#include "kernels/gpu/vulkan/attend_4.inc"
};
const uint32_t ATTEND_8[] = {
#include "kernels/gpu/vulkan/attend_8.inc"
};
const uint32_t COMBINE[] = {
#include "kernels/gpu/vulkan/combine.inc"
};
const uint32_t STORE[] = {
#include "kernels/gpu/vulkan/store.inc"
};
const uint32_t SEAL[] = {
#include "kernels/gpu/vulkan/seal.inc"
};

struct code { const char * name; const uint32_t * words; size_t bytes; };
const code CODES[] = {
    {"xq_attend_1", ATTEND_1, sizeof(ATTEND_1)}, {"xq_attend_2", ATTEND_2, sizeof(ATTEND_2)}, {"xq_attend_4", ATTEND_4, sizeof(ATTEND_4)},
    {"xq_attend_8", ATTEND_8, sizeof(ATTEND_8)}, {"xq_combine", COMBINE, sizeof(COMBINE)},    {"xq_store", STORE, sizeof(STORE)},
    {"xq_seal", SEAL, sizeof(SEAL)},
};

// The device destroys what its list of pipelines can lock, so they live as long as the process.
struct known {
    std::mutex mutex;
    std::map<std::pair<vk_device_struct *, std::vector<uint32_t>>, vk_pipeline> pipelines;
};
known & all() {
    static known * k = new known;
    return *k;
}

vk_pipeline make(const vk_device & device, const code & c, const std::vector<uint32_t> & constants, uint32_t push_bytes) {
    vk_pipeline p = std::make_shared<vk_pipeline_struct>();
    p->name = c.name;
    p->push_constant_size = push_bytes;
    p->initialized = true;
    p->shader_module = device->device.createShaderModule({{}, c.bytes, c.words});
    const vk::PushConstantRange range(vk::ShaderStageFlagBits::eCompute, 0, push_bytes);
    p->layout = device->device.createPipelineLayout(vk::PipelineLayoutCreateInfo({}, 0, nullptr, 1, &range));
    std::vector<vk::SpecializationMapEntry> entries;
    for (uint32_t i = 0; i < constants.size(); ++i) {
        entries.emplace_back(i, i*(uint32_t) sizeof(uint32_t), sizeof(uint32_t));
    }
    const vk::SpecializationInfo info((uint32_t) entries.size(), entries.data(), constants.size()*sizeof(uint32_t), constants.data());
    const vk::PipelineShaderStageCreateInfo stage({}, vk::ShaderStageFlagBits::eCompute, p->shader_module, "main", &info);
    p->pipeline = device->device.createComputePipeline(VK_NULL_HANDLE, vk::ComputePipelineCreateInfo({}, stage, p->layout)).value;
    p->compiled = true;
    std::lock_guard<std::mutex> guard(device->compile_mutex);
    device->all_pipelines.push_back(p);
    return p;
}

vk_pipeline pipeline_of(const vk_device & device, const xq_dispatch & d) {
    std::vector<uint32_t> constants = {(uint32_t) ((d.shared + 3)/4)};
    constants.insert(constants.end(), d.constants.begin(), d.constants.end());
    std::vector<uint32_t> key = constants;
    key.push_back(d.shader);
    known & k = all();
    std::lock_guard<std::mutex> guard(k.mutex);
    vk_pipeline & p = k.pipelines[{device.get(), key}];
    if (!p) {
        p = make(device, CODES[d.shader], constants, d.push_bytes);
    }
    return p;
}

} // namespace

const char * xq_vulkan_lacks(const vk_device & device) {
    vk::PhysicalDeviceFeatures2 features;
    vk::PhysicalDeviceVulkan11Features f11;
    vk::PhysicalDeviceVulkan12Features f12;
    features.pNext = &f11;
    f11.pNext = &f12;
    device->physical_device.getFeatures2(&features);
    if (!device->buffer_device_address || !device->shader_int64 || !f11.storageBuffer16BitAccess || !f12.storageBuffer8BitAccess) {
        return "a device with buffer addresses, 64-bit integers and 8-bit and 16-bit storage";
    }
    return nullptr;
}

size_t xq_vulkan_shared_limit(const vk_device & device) {
    return device->properties.limits.maxComputeSharedMemorySize - XQ_EXCHANGED;
}

size_t xq_vulkan_seal_bytes(const xq_node_layer & l) { return xqg_seal_bytes(l.k, sizeof(uint32_t)*XQ_RANKED_WORDS); }

void xq_vulkan_dispatch(const vk_device & device, vk_context & subctx, const xq_dispatch & d) {
    const vk_pipeline p = pipeline_of(device, d);
    vk::CommandBuffer & commands = subctx->s->buffer->buf;
    commands.pushConstants(p->layout, vk::ShaderStageFlagBits::eCompute, 0, d.push_bytes, d.push);
    commands.bindPipeline(vk::PipelineBindPoint::eCompute, p->pipeline);
    ggml_vk_debug_label label(subctx, p->name, d.groups[0], d.groups[1], d.groups[2]);
    commands.dispatch(d.groups[0], d.groups[1], d.groups[2]);
}
