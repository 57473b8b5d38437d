#include "device.h"

#include <algorithm>
#include <string>
#include <vector>
#include <vulkan/vulkan.h>

namespace {

const uint32_t ATTEND_1[] = {
#include "attend_1.inc"
};
const uint32_t ATTEND_2[] = {
#include "attend_2.inc"
};
const uint32_t ATTEND_4[] = {
#include "attend_4.inc"
};
const uint32_t ATTEND_8[] = {
#include "attend_8.inc"
};
const uint32_t COMBINE[] = {
#include "combine.inc"
};
const uint32_t STORE[] = {
#include "store.inc"
};
const uint32_t SEAL[] = {
#include "seal.inc"
};
const uint32_t SEAL_ONE[] = {
#include "seal_one.inc"
};
const uint32_t UNPACK_ONE[] = {
#include "unpack_one.inc"
};

struct code { const uint32_t * words; size_t bytes; };
const code CODES[XQ_SHADERS] = {
    {ATTEND_1, sizeof(ATTEND_1)}, {ATTEND_2, sizeof(ATTEND_2)}, {ATTEND_4, sizeof(ATTEND_4)}, {ATTEND_8, sizeof(ATTEND_8)},
    {COMBINE, sizeof(COMBINE)},   {STORE, sizeof(STORE)},       {SEAL, sizeof(SEAL)},         {SEAL_ONE, sizeof(SEAL_ONE)},
    {UNPACK_ONE, sizeof(UNPACK_ONE)},
};

constexpr uint32_t EXCHANGED = 64; // words of shared memory that are not in xq_memory
constexpr VkShaderStageFlagBits COMPUTE = VK_SHADER_STAGE_COMPUTE_BIT;

struct {
    VkPhysicalDevice physical;
    VkPhysicalDeviceProperties properties;
    VkDevice device;
    VkQueue queue;
    VkCommandBuffer commands;
    VkFence fence;
    VkDeviceAddress address;
    uint8_t * memory;
    VkPipeline pipelines[XQ_SHADERS];
    VkPipelineLayout layouts[XQ_SHADERS];
} the;

std::string failure;

struct failed { const char * call; VkResult result; };
#define TRY(call) if (const VkResult r = (call)) throw failed{#call, r}

template <class F> const char * guarded(F && f) {
    try {
        f();
        return nullptr;
    } catch (const failed & e) {
        failure = std::string(e.call) + " = " + std::to_string(e.result);
        return failure.c_str();
    }
}

// A family of queues that compute, or -1.
int family_of(VkPhysicalDevice p) {
    uint32_t n = 0;
    vkGetPhysicalDeviceQueueFamilyProperties(p, &n, nullptr);
    std::vector<VkQueueFamilyProperties> all(n);
    vkGetPhysicalDeviceQueueFamilyProperties(p, &n, all.data());
    const auto found = std::find_if(all.begin(), all.end(), [](const auto & f) { return f.queueFlags & VK_QUEUE_COMPUTE_BIT; });
    return found == all.end() ? -1 : (int) (found - all.begin());
}

struct features {
    VkPhysicalDeviceFeatures2 all{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, nullptr, {}};
    VkPhysicalDeviceVulkan11Features f11{};
    VkPhysicalDeviceVulkan12Features f12{};
    features() {
        f11.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES;
        f12.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES;
        all.pNext = &f11;
        f11.pNext = &f12;
    }
};

// As xq_vulkan_lacks (pipelines.cpp).
bool suits(VkPhysicalDevice p) {
    vkGetPhysicalDeviceProperties(p, &the.properties);
    if (the.properties.apiVersion < VK_API_VERSION_1_2 || the.properties.limits.maxComputeSharedMemorySize < 32*1024 || family_of(p) < 0) {
        return false;
    }
    features have;
    vkGetPhysicalDeviceFeatures2(p, &have.all);
    return have.f12.bufferDeviceAddress && have.all.features.shaderInt64 && have.f11.storageBuffer16BitAccess && have.f12.storageBuffer8BitAccess;
}

bool choose() {
    VkApplicationInfo app{};
    app.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO;
    app.apiVersion = VK_API_VERSION_1_2;
    VkInstanceCreateInfo info{};
    info.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO;
    info.pApplicationInfo = &app;
    VkInstance instance;
    uint32_t n = 0; // where a driver finds no device of its own, these calls fail
    if (vkCreateInstance(&info, nullptr, &instance) != VK_SUCCESS || vkEnumeratePhysicalDevices(instance, &n, nullptr) != VK_SUCCESS) {
        return false;
    }
    std::vector<VkPhysicalDevice> all(n);
    TRY(vkEnumeratePhysicalDevices(instance, &n, all.data()));
    const auto found = std::find_if(all.begin(), all.end(), suits);
    the.physical = found == all.end() ? nullptr : *found;
    return found != all.end();
}

void make_device() {
    const uint32_t family = (uint32_t) family_of(the.physical);
    const float priority = 1;
    VkDeviceQueueCreateInfo queue{};
    queue.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO;
    queue.queueFamilyIndex = family;
    queue.queueCount = 1;
    queue.pQueuePriorities = &priority;
    features want;
    want.all.features.shaderInt64 = want.f12.bufferDeviceAddress = VK_TRUE;
    want.f11.storageBuffer16BitAccess = want.f12.storageBuffer8BitAccess = VK_TRUE;
    VkDeviceCreateInfo info{};
    info.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO;
    info.pNext = &want.all;
    info.queueCreateInfoCount = 1;
    info.pQueueCreateInfos = &queue;
    TRY(vkCreateDevice(the.physical, &info, nullptr, &the.device));
    vkGetDeviceQueue(the.device, family, 0, &the.queue);

    VkCommandPoolCreateInfo pool_info{};
    pool_info.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO;
    pool_info.flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT;
    pool_info.queueFamilyIndex = family;
    VkCommandPool pool;
    TRY(vkCreateCommandPool(the.device, &pool_info, nullptr, &pool));
    VkCommandBufferAllocateInfo commands{};
    commands.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO;
    commands.commandPool = pool;
    commands.level = VK_COMMAND_BUFFER_LEVEL_PRIMARY;
    commands.commandBufferCount = 1;
    TRY(vkAllocateCommandBuffers(the.device, &commands, &the.commands));
    VkFenceCreateInfo fence{};
    fence.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO;
    TRY(vkCreateFence(the.device, &fence, nullptr, &the.fence));
}

uint32_t visible_memory(uint32_t types) {
    const VkMemoryPropertyFlags want = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    VkPhysicalDeviceMemoryProperties p;
    vkGetPhysicalDeviceMemoryProperties(the.physical, &p);
    for (uint32_t i = 0; i < p.memoryTypeCount; ++i) {
        if ((types >> i & 1) && (p.memoryTypes[i].propertyFlags & want) == want) {
            return i;
        }
    }
    throw failed{"host-visible memory", VK_ERROR_FEATURE_NOT_PRESENT};
}

void make_buffer(size_t bytes) {
    VkBufferCreateInfo info{};
    info.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO;
    info.size = bytes;
    info.usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_SHADER_DEVICE_ADDRESS_BIT;
    VkBuffer buffer;
    TRY(vkCreateBuffer(the.device, &info, nullptr, &buffer));
    VkMemoryRequirements need;
    vkGetBufferMemoryRequirements(the.device, buffer, &need);
    VkMemoryAllocateFlagsInfo flags{};
    flags.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_FLAGS_INFO;
    flags.flags = VK_MEMORY_ALLOCATE_DEVICE_ADDRESS_BIT;
    VkMemoryAllocateInfo allocate{};
    allocate.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO;
    allocate.pNext = &flags;
    allocate.allocationSize = need.size;
    allocate.memoryTypeIndex = visible_memory(need.memoryTypeBits);
    VkDeviceMemory memory;
    TRY(vkAllocateMemory(the.device, &allocate, nullptr, &memory));
    TRY(vkBindBufferMemory(the.device, buffer, memory, 0));
    TRY(vkMapMemory(the.device, memory, 0, VK_WHOLE_SIZE, 0, (void **) &the.memory));
    VkBufferDeviceAddressInfo at{};
    at.sType = VK_STRUCTURE_TYPE_BUFFER_DEVICE_ADDRESS_INFO;
    at.buffer = buffer;
    the.address = vkGetBufferDeviceAddress(the.device, &at);
}

// Made when it is first dispatched. Constant 0 is as large as shared memory allows; 1 and 2 say where the others are.
void make_pipeline(uint32_t shader, uint32_t push_bytes) {
    VkShaderModuleCreateInfo module_info{};
    module_info.sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO;
    module_info.codeSize = CODES[shader].bytes;
    module_info.pCode = CODES[shader].words;
    VkShaderModule module;
    TRY(vkCreateShaderModule(the.device, &module_info, nullptr, &module));
    VkPushConstantRange range{COMPUTE, 0, push_bytes};
    VkPipelineLayoutCreateInfo layout{};
    layout.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO;
    layout.pushConstantRangeCount = 1;
    layout.pPushConstantRanges = &range;
    TRY(vkCreatePipelineLayout(the.device, &layout, nullptr, &the.layouts[shader]));

    const uint32_t words = the.properties.limits.maxComputeSharedMemorySize/4 - EXCHANGED;
    const uint32_t constants[] = {words, (uint32_t) the.address, (uint32_t) (the.address >> 32)};
    const VkSpecializationMapEntry entries[] = {{0, 0, 4}, {1, 4, 4}, {2, 8, 4}};
    const VkSpecializationInfo special = {3, entries, sizeof(constants), constants};
    VkComputePipelineCreateInfo info{};
    info.sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO;
    info.stage.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO;
    info.stage.stage = COMPUTE;
    info.stage.module = module;
    info.stage.pName = "main";
    info.stage.pSpecializationInfo = &special;
    info.layout = the.layouts[shader];
    TRY(vkCreateComputePipelines(the.device, nullptr, 1, &info, nullptr, &the.pipelines[shader]));
}

void run(const xq_dispatch & d) {
    if (!the.pipelines[d.shader]) {
        make_pipeline(d.shader, d.push_bytes);
    }
    VkCommandBufferBeginInfo begin{};
    begin.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO;
    TRY(vkBeginCommandBuffer(the.commands, &begin));
    vkCmdPushConstants(the.commands, the.layouts[d.shader], COMPUTE, 0, d.push_bytes, d.push);
    vkCmdBindPipeline(the.commands, VK_PIPELINE_BIND_POINT_COMPUTE, the.pipelines[d.shader]);
    vkCmdDispatch(the.commands, d.groups[0], d.groups[1], d.groups[2]);
    VkMemoryBarrier read{};
    read.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER;
    read.srcAccessMask = VK_ACCESS_SHADER_WRITE_BIT;
    read.dstAccessMask = VK_ACCESS_HOST_READ_BIT;
    vkCmdPipelineBarrier(the.commands, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, VK_PIPELINE_STAGE_HOST_BIT, 0, 1, &read, 0, nullptr, 0, nullptr);
    TRY(vkEndCommandBuffer(the.commands));
    VkSubmitInfo submit{};
    submit.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO;
    submit.commandBufferCount = 1;
    submit.pCommandBuffers = &the.commands;
    TRY(vkQueueSubmit(the.queue, 1, &submit, the.fence));
    TRY(vkWaitForFences(the.device, 1, &the.fence, VK_TRUE, UINT64_MAX)); // who waits for this process has a limit
    TRY(vkResetFences(the.device, 1, &the.fence));
}

} // namespace

const char * xq_device_open(size_t bytes) {
    bool found = false;
    const char * error = guarded([&] {
        found = choose();
        if (found) {
            make_device();
            make_buffer(bytes);
        }
    });
    return error || found ? error : XQ_NO_DEVICE;
}

const char * xq_device_name() { return the.properties.deviceName; }
uint64_t xq_device_address() { return the.address; }
uint8_t * xq_device_memory() { return the.memory; }
const char * xq_device_run(const xq_dispatch & d) {
    return guarded([&] { run(d); });
}
