#include "format/xq_ranked.h"
#include "kernels/cpu/kernels.h"

#include <array>
#include <cstring>

namespace {

// Which bits of a byte are set, in ascending order, one in each byte of `at` from the lowest on. Looking at bits one by one
// took 27 % of key_scores (AVX2, 2 bits).
struct set_bits {
    uint64_t at = 0;
    int n = 0;
};
constexpr std::array<set_bits, 256> all_set_bits() {
    std::array<set_bits, 256> all{};
    for (int byte = 0; byte < 256; ++byte) {
        for (int bit = 0; bit < 8; ++bit) {
            if (byte >> bit & 1) {
                all[byte].at |= (uint64_t) bit << 8*all[byte].n++;
            }
        }
    }
    return all;
}
constexpr std::array<set_bits, 256> SET_BITS = all_set_bits();

} // namespace

void xq_read_segments(const xq_side & side, const uint8_t * meta, xq_segments & out) {
    const int fine = xq_fine(side);
    const uint8_t * low = meta + XQ_RANKED_HEAD, * high = low + side.rows/8;
    out.n = 0;
    int word = 0, at = 0;
    for (int c = XQ_CLASSES - 1; c >= 0; --c) {
        const int bits = xq_class_bits(c, fine);
        if (bits == 0) {
            break;
        }
        const int first = at;
        for (int i = 0; i < side.rows/8; ++i) {
            const int l = low[i], h = high[i];
            const set_bits & set = SET_BITS[(c & 1 ? l : ~l) & (c & 2 ? h : ~h) & 255];
            const uint64_t rows = set.at + 0x0101010101010101u*(uint64_t) (8*i);
            std::memcpy(out.order + at, &rows, 8); // the next byte's go over those that are none
            at += set.n;
        }
        if (at == first) {
            continue;
        }
        out.list[out.n++] = {bits, at - first, word, first};
        word += xq_class_words(at - first, bits);
        std::memset(out.order + at, 0, 32);
        at = (at + 31) & ~31;
    }
    out.width = at;
}
