// The size of a launch.
#pragma once

#include <stddef.h>

struct xq_grid {
    int x, y, z, threads;
    size_t shared; // bytes
};
