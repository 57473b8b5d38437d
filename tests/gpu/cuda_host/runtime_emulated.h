// What calls.cu needs of CUDA's runtime, where it is compiled as C++ and kernels run on the emulator.
#pragma once

#include <cstdlib>
#include <cstring>

enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };

inline cudaError_t cudaMalloc(void ** memory, size_t size) {
    *memory = std::aligned_alloc(256, size);
    return *memory ? 0 : 1;
}
inline cudaError_t cudaFree(void * memory) {
    std::free(memory);
    return 0;
}
inline cudaError_t cudaMemcpy(void * to, const void * from, size_t size, cudaMemcpyKind) {
    std::memcpy(to, from, size);
    return 0;
}
inline cudaError_t cudaDeviceSynchronize() { return cudaGetLastError(); }
inline const char * cudaGetErrorString(cudaError_t) { return xq_emulator::last_error(); }
