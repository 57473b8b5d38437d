#include "kernels/cpu/by_mac.h"

#include <algorithm>

namespace {

constexpr int BATCH = 6; // rows of multipliers on the stack

} // namespace

// s[lane] = sum_i (q_i scale_i) code_i[lane]  +  sum_i q_i zero_i
static uint64_t tile_scores(const xq_cpu_kernels & kern, const xq_side & side, const uint32_t * codes, const uint8_t * meta,
                            const float * q, int ldq, int n, float * s, int lds) {
    constexpr int STRIDE = XQ_MAX_ROWS + 4*XQ_LANES;
    alignas(32) float scale[XQ_MAX_ROWS], zero[XQ_MAX_ROWS], m[BATCH*STRIDE], row[XQ_MAX_ROWS];
    const bool ranked = side.meta == XQ_META_RANKED;
    xq_segments segments;
    if (ranked) {
        xq_read_segments(side, meta, segments);
    } else {
        segments.n = 1;
        segments.list[0] = {side.bits, side.rows, 0, 0};
    }
    kern.read_meta(side, meta, scale, zero);
    uint64_t coarse = 0;
    for (int j0 = 0; j0 < n; j0 += BATCH) {
        const int nj = std::min(BATCH, n - j0);
        for (int j = 0; j < nj; ++j) {
            float * mj = m + j*STRIDE, * sj = s + (size_t) (j0 + j)*lds;
            float top;
            const float offset = kern.scale_row(q + (size_t) (j0 + j)*ldq, scale, zero, side.rows, ranked ? row : mj, &top);
            const float share = ranked ? kern.order_row(segments, row, mj) : top*(float) xq_code_max(side.bits);
            std::fill(sj, sj + XQ_LANES, offset);
            coarse |= (uint64_t) (share > XQ_MAX_SHARE) << (j0 + j);
        }
        for (int k = 0; k < segments.n; ++k) {
            const auto & seg = segments.list[k];
            kern.mac(seg.bits, seg.rows, codes + (size_t) seg.word*XQ_LANES, m + seg.at, STRIDE, nj, s + (size_t) j0*lds, lds);
        }
    }
    return coarse;
}

void xq_key_scores(const xq_cpu_kernels & kern, const xq_side & side, const xq_sealed_tiles & tiles, const float * q, int ldq, int n,
                   float * s, int lds, uint64_t * coarse) {
    for (int i = 0; i < tiles.n; ++i) {
        coarse[i] = tile_scores(kern, side, tiles.codes[i], tiles.meta[i], q, ldq, n, s + tiles.at[i], lds);
    }
}

// o[lane] += sum_t (p_t scale_t) code_t[lane]  +  sum_t p_t zero_t, strip by strip
static void add_tile(const xq_cpu_kernels & kern, const xq_side & side, const uint32_t * codes, const uint8_t * meta,
                     const float * p, int ldp, int n, float * o, int ldo) {
    alignas(32) float scale[XQ_TILE], zero[XQ_TILE], m[BATCH*XQ_TILE], offset[BATCH];
    const int words = xq_side_words(side);
    for (int g = 0; g < side.strips;) {
        int end = g + 1; // strips that share these scales
        while (end < side.strips && xq_meta_at(side, end) == xq_meta_at(side, g)) {
            ++end;
        }
        kern.read_meta(side, meta + xq_meta_at(side, g), scale, zero);
        for (int j0 = 0; j0 < n; j0 += BATCH) {
            const int nj = std::min(BATCH, n - j0);
            for (int j = 0; j < nj; ++j) {
                float top;
                offset[j] = kern.scale_row(p + (size_t) (j0 + j)*ldp, scale, zero, XQ_TILE, m + j*XQ_TILE, &top);
            }
            for (int h = g; h < end; ++h) {
                float * out = o + (size_t) j0*ldo + h*XQ_LANES;
                for (int j = 0; j < nj; ++j) {
                    for (int l = 0; l < XQ_LANES; ++l) {
                        out[(size_t) j*ldo + l] += offset[j];
                    }
                }
                kern.mac(side.bits, XQ_TILE, codes + (size_t) h*words, m, XQ_TILE, nj, out, ldo);
            }
        }
        g = end;
    }
}

void xq_add_values(const xq_cpu_kernels & kern, const xq_side & side, const xq_sealed_tiles & tiles, const float * p, int ldp, int n,
                   float * o, int ldo) {
    for (int i = 0; i < tiles.n; ++i) {
        add_tile(kern, side, tiles.codes[i], tiles.meta[i], p + tiles.at[i], ldp, n, o, ldo);
    }
}
