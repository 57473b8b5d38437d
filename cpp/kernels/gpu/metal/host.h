// Arguments and launches of the kernels, for the C++ side of the Metal backend.
#pragma once

#define XQG_HOST

#include <stdint.h>

#include "kernels/gpu/args.h"
#include "kernels/gpu/launch.h"
#include "kernels/gpu/metal/sizes.h"
#include "kernels/gpu/node_args.h"
