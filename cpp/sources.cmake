# Every source of ours, relative to cpp/. CMakeLists.txt compiles them into libllama.
set(XQ_SOURCES
    cache/cache.cpp
    cache/config.cpp
    cache/convert.cpp
    cache/identity.cpp
    cache/metric.cpp
    cache/metric_steps.cpp
    cache/plan.cpp
    cache/report.cpp
    cache/restore.cpp
    cache/room.cpp
    cache/saved_tile.cpp
    cache/section.cpp
    cache/state.cpp
    cache/tiles.cpp
    capi/convert_api.cpp
    capi/device_api.cpp
    capi/kernels_api.cpp
    capi/memory.cpp
    capi/memory_api.cpp
    capi/xquant.cpp
    graph/graph.cpp
    graph/nodes.cpp
    graph/queries.cpp
    kernels/cpu/attend.cpp
    kernels/cpu/avx2.cpp
    kernels/cpu/avx2_seal.cpp
    kernels/cpu/avx2_values.cpp
    kernels/cpu/avx512.cpp
    kernels/cpu/avx512_pages.cpp
    kernels/cpu/avx512_values.cpp
    kernels/cpu/avx_vnni.cpp
    kernels/cpu/by_mac.cpp
    kernels/cpu/dispatch.cpp
    kernels/cpu/generic.cpp
    kernels/cpu/neon.cpp
    kernels/cpu/neon_dot.cpp
    kernels/cpu/seal.cpp
    kernels/cpu/segments.cpp
    reference/reference.cpp
)

# Compiled into ggml's CUDA backend, if that is built.
set(XQ_CUDA_SOURCES
    kernels/gpu/cuda/attend.cu
    kernels/gpu/cuda/batch.cu
    kernels/gpu/cuda/nodes.cu
    kernels/gpu/cuda/seal.cu
    kernels/gpu/cuda/store.cu
)

# Compiled into ggml's Vulkan backend, if that is built.
set(XQ_VULKAN_SOURCES
    kernels/gpu/vulkan/nodes.cpp
    kernels/gpu/vulkan/pipelines.cpp
)
