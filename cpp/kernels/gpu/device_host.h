// For a host that fills in the arguments of kernels which another compiler compiles (XQG_HOST): the words that args.h
// needs, without a device.
#pragma once

#include "format/xq_table.h"

#define XQ_GLOBAL
#define XQ_CONST
#define XQ_BODY static inline

typedef int64_t xqg_size;
