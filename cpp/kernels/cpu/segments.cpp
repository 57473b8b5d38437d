#include "format/xq_ranked.h"
#include "kernels/cpu/kernels.h"

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
        for (int i = 0; i < side.rows; i += 8) {
            const int l = low[i/8], h = high[i/8];
            for (int in = (c & 1 ? l : ~l) & (c & 2 ? h : ~h) & 255; in; in &= in - 1) {
                int bit = 0;
                while (!(in >> bit & 1)) {
                    ++bit;
                }
                out.order[at++] = (uint8_t) (i + bit);
            }
        }
        if (at == first) {
            continue;
        }
        out.list[out.n++] = {bits, at - first, word, first};
        word += xq_class_words(at - first, bits);
        while (at % 32 != 0) {
            out.order[at++] = 0;
        }
    }
    out.width = at;
}
