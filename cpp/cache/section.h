// Sections of a saved state: bytes with their length before and a checksum behind them. The checksum is CRC-32 (zlib's)
// and runs on from section to section, so that none can be changed, left out, doubled or moved.
#pragma once

#include "llama-io.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

uint32_t xq_crc32(uint32_t crc, const void * data, size_t size);

// The bytes of one section on their way out. `move` is the same call in both directions: a layout is written once.
class xq_section_writer {
public:
    static constexpr bool reading = false;
    void bytes(const void * data, size_t size) {
        buffer.insert(buffer.end(), (const uint8_t *) data, (const uint8_t *) data + size);
    }
    template <class T> void move(T & value) {
        static_assert(std::is_trivially_copyable<T>::value, "as bytes");
        bytes(&value, sizeof(value));
    }
    // Behind the sections sent before; `crc` is the checksum so far.
    void send(llama_io_write_i & io, uint32_t & crc) {
        const uint32_t size = (uint32_t) buffer.size();
        crc = xq_crc32(xq_crc32(crc, &size, sizeof(size)), buffer.data(), size);
        io.write(&size, sizeof(size));
        io.write(buffer.data(), size);
        io.write(&crc, sizeof(crc));
        buffer.clear();
    }

private:
    std::vector<uint8_t> buffer;
};

// And on their way in: nothing is given out before the checksum is right.
class xq_section_reader {
public:
    static constexpr bool reading = true;
    // At most `limit` bytes; nothing is allocated for more.
    xq_section_reader(llama_io_read_i & io, uint32_t & crc, size_t limit) {
        uint32_t size = 0, sum = 0;
        io.read(&size, sizeof(size));
        if (size > limit) {
            throw std::runtime_error("it is damaged: a length of " + std::to_string(size) + " bytes where " +
                                     std::to_string(limit) + " are most");
        }
        buffer.resize(size);
        io.read(buffer.data(), size);
        io.read(&sum, sizeof(sum));
        crc = xq_crc32(xq_crc32(crc, &size, sizeof(size)), buffer.data(), size);
        if (crc != sum) {
            throw std::runtime_error("it is damaged: a checksum does not fit");
        }
    }
    void bytes(void * data, size_t size) {
        if (size > left()) {
            throw std::runtime_error("it is damaged: a section is too short");
        }
        if (size > 0) {
            std::memcpy(data, buffer.data() + at, size);
        }
        at += size;
    }
    template <class T> void move(T & value) { bytes(&value, sizeof(value)); }
    size_t left() const { return buffer.size() - at; }

private:
    std::vector<uint8_t> buffer;
    size_t at = 0;
};
