// How the C API returns text: into the caller's buffer, with the length that the whole needs.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>

inline int xq_give(const std::string & text, char * buf, int size) {
    if (buf && size > 0) {
        const size_t n = std::min(text.size(), (size_t) size - 1);
        std::memcpy(buf, text.data(), n);
        buf[n] = 0;
    }
    return (int) text.size();
}
