#include "cache/section.h"

#include <array>

namespace {

// table[k][b]: byte b, followed by k zero bytes.
std::array<std::array<uint32_t, 256>, 8> make_table() {
    std::array<std::array<uint32_t, 256>, 8> table{};
    for (uint32_t b = 0; b < 256; ++b) {
        uint32_t c = b;
        for (int i = 0; i < 8; ++i) {
            c = c & 1 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
        }
        table[0][b] = c;
    }
    for (size_t k = 1; k < table.size(); ++k) {
        for (uint32_t b = 0; b < 256; ++b) {
            table[k][b] = table[0][table[k - 1][b] & 255] ^ (table[k - 1][b] >> 8);
        }
    }
    return table;
}

} // namespace

// Eight bytes a step ("slicing"): a whole cache is summed up when it is saved.
uint32_t xq_crc32(uint32_t crc, const void * data, size_t size) {
    static const auto table = make_table();
    const uint8_t * p = (const uint8_t *) data;
    uint32_t c = ~crc;
    for (; size >= 8; size -= 8, p += 8) {
        const uint32_t first = c ^ (p[0] | (uint32_t) p[1] << 8 | (uint32_t) p[2] << 16 | (uint32_t) p[3] << 24);
        c = table[7][first & 255] ^ table[6][first >> 8 & 255] ^ table[5][first >> 16 & 255] ^ table[4][first >> 24] ^
            table[3][p[4]] ^ table[2][p[5]] ^ table[1][p[6]] ^ table[0][p[7]];
    }
    for (; size > 0; --size, ++p) {
        c = table[0][(c ^ *p) & 255] ^ (c >> 8);
    }
    return ~c;
}
