# Included after project(ggml) of the sanitised build. Its kernels assert finite norms, and tokens that are not finite
# are part of the test; assertions of llama.cpp's cache stay.
add_compile_definitions(NDEBUG)
