// What ggml's CUDA backend calls for nodes of ours (graph/node.h). HIP and MUSA compile the same backend without our
// kernels: there no node is ours. Included behind the headers of the CUDA runtime.
#pragma once

#include "graph/node.h"

#include "ggml-backend.h"

#include <cstddef>

#if !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA)

// Whether the node is ours, in a form that the kernels take, and its planes lie on this device. What is refused here must have
// been refused at load: ggml aborts on a node that no backend of its buffer takes.
bool xq_cuda_supports(const ggml_tensor * node, ggml_backend_dev_t device);

// Floats of scratch that the node needs, at least 1.
size_t xq_cuda_scratch(const ggml_tensor * node);

// Launches the node's kernels; nothing else, so that it may be captured into a graph.
cudaError_t xq_cuda_compute(const ggml_tensor * node, float * scratch, cudaStream_t stream);

// Functions that libllama asks for by name, or null.
void * xq_cuda_address(const char * name);

#else

inline bool xq_cuda_supports(const ggml_tensor *, ggml_backend_dev_t) { return false; }
inline size_t xq_cuda_scratch(const ggml_tensor *) { return 1; }
inline cudaError_t xq_cuda_compute(const ggml_tensor *, float *, cudaStream_t) { return (cudaError_t) 1; }
inline void * xq_cuda_address(const char *) { return nullptr; }

#endif
