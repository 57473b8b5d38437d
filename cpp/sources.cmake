# Every source of ours, relative to cpp/. CMakeLists.txt compiles them into libllama.
set(XQ_SOURCES
    cache/cache.cpp
    cache/config.cpp
    cache/plan.cpp
    cache/report.cpp
    cache/state.cpp
    cache/tiles.cpp
    capi/kernels_api.cpp
    capi/xquant.cpp
    graph/graph.cpp
    kernels/cpu/attend.cpp
    kernels/cpu/avx2.cpp
    kernels/cpu/dispatch.cpp
    kernels/cpu/generic.cpp
    kernels/cpu/seal.cpp
    reference/reference.cpp
)
