// What an emulated library exports beside the kernel entry points of capi/kernels_api.h. Results are as there; -2 where
// threads could not meet.
#pragma once

#include "capi/kernels_api.h"

#ifdef __cplusplus
extern "C" {
#endif

// The order of threads follows from it.
XQ_API void xq_emulated_seed(unsigned seed);
// Chunks of a block of attention of few rows; 0: one, or all with whole_rows.
XQ_API void xq_emulated_span(int chunks);
// What went wrong in the last call, or "".
XQ_API const char * xq_emulated_error(void);

// New rows [token][KV head][dk or dv] into page rows.
XQ_API int xq_emulated_store(const xq_api_layer * layer, const float * k, const float * v, const int64_t * rows);

#ifdef __cplusplus
}
#endif
