// Sealing, metadata and unpacking of strips against the reference, byte for byte.
#include "strips.h"

#include "format/xq_ranked.h"
#include "format/xq_unbiased.h"
#include "reference/reference.h"

#include <cstring>
#include <vector>

namespace {

void seal_once(const xq_cpu_kernels & k, const xq_side & side, const fenced<float> & x, const uint8_t * row_ok, uint32_t mask, const fenced<uint32_t> * leader) {
    fenced<uint32_t> want(xq_side_words(side), 0xDEADBEEF), got(want);
    fenced<uint8_t>  want_meta(xq_meta_bytes(side.rows, side.meta), 0xFF), got_meta(want_meta);
    if (leader) {
        want = got = *leader;
    }
    xq_ref_seal_strip(side, x.data(), row_ok, mask, want.data(), leader != nullptr, want_meta.data());
    k.seal_strip(side, x.data(), row_ok, mask, got.data(), leader != nullptr, got_meta.data());
    CHECK(got == want, "codes differ");
    CHECK(got_meta == want_meta, "metadata differs");
    into_digest(got);
    into_digest(got_meta);

    fenced<float> scale((side.rows + 7) & ~7), zero(scale), want_scale(side.rows), want_zero(side.rows);
    k.read_meta(side, got_meta.data(), scale.data(), zero.data());
    xq_ref_read_meta(side, got_meta.data(), want_scale.data(), want_zero.data());
    fenced<float> out((size_t) side.rows*XQ_LANES), want_out(out);
    k.unpack_strip(side, got.data(), got_meta.data(), out.data());
    xq_ref_unpack_strip(side, got.data(), got_meta.data(), want_out.data());
    bool same = true, close = true;
    for (int i = 0; i < side.rows; ++i) {
        same = same && scale[i] == want_scale[i] && zero[i] == want_zero[i];
        const float size = std::fabs(want_zero[i]) + 255*std::fabs(want_scale[i]);
        for (int l = 0; l < XQ_LANES; ++l) {
            close = close && std::fabs(out[i*XQ_LANES + l] - want_out[i*XQ_LANES + l]) <= size*EPS;
        }
    }
    CHECK(same, "scales or zero points differ");
    CHECK(close, "unpacked values differ");
    ++cases;
}

} // namespace

void test_uniform(const xq_cpu_kernels & k) {
    for (const int rows : DIMS) {
        for (int bits = 1; bits <= 4; ++bits) {
            for (const int meta : {XQ_META_F16, XQ_META_Q8}) {
                dice rng(rows*8 + bits);
                xq_side side = uniform_side(rows, bits, meta);
                for (int kind = 0; kind < N_KINDS; ++kind) {
                    check_context = check_text(k.name, "uniform", rows, "rows", bits, "bits meta", meta, KIND_NAMES[kind]);
                    seal_once(k, side, strip_of(rng, rows, kind), nullptr, ALL, nullptr);
                    seal_once(k, side, strip_of(rng, rows, kind, true), nullptr, ALL, nullptr);
                }
                check_context = check_text(k.name, "uniform", rows, "rows", bits, "bits meta", meta, "ties");
                side.eta = 0;
                seal_once(k, side, ties_of(rng, rows, bits), nullptr, ALL, nullptr);
                side.eta = 0.5f;
                seal_once(k, side, strip_of(rng, rows, NORMAL), nullptr, ALL, nullptr);
            }
        }
    }
    for (int bits = 1; bits <= 4; ++bits) { // holes and followers
        for (const uint32_t mask : MASKS) {
            check_context = check_text(k.name, "uniform", bits, "bits mask", mask);
            dice rng(mask + bits);
            xq_side side = uniform_side(32, bits, bits % 2 ? XQ_META_F16 : XQ_META_Q8);
            fenced<uint8_t> ok(32);
            for (int i = 0; i < 32; ++i) {
                ok[i] = rng.below(2);
            }
            const auto x = strip_of(rng, 32, NORMAL);
            seal_once(k, side, x, nullptr, mask, nullptr);
            seal_once(k, side, x, ok.data(), mask, nullptr);
            seal_once(k, side, x, ok.data(), ALL, nullptr);
            fenced<uint32_t> leader(xq_side_words(side));
            for (size_t i = 0; i < leader.size(); ++i) {
                leader[i] = rng.bits();
            }
            for (const int fit : {XQ_FIT_MINMAX, XQ_FIT_LS}) {
                side.fit = fit;
                seal_once(k, side, x, nullptr, ALL, &leader);
                seal_once(k, side, x, nullptr, mask, &leader);
            }
        }
    }
}

void test_ranked(const xq_cpu_kernels & k) {
    for (const int rows : DIMS) {
        const int fine = (rows + 7)/8;
        for (const int words : {1, rows/24, fine - 1, fine, fine + 1, rows*3/16, rows/4}) {
            if (words < 1 || words > rows/4) {
                continue;
            }
            dice rng(rows*64 + words);
            const xq_side side = ranked_side(rows, words);
            for (int kind = 0; kind < N_KINDS; ++kind) {
                check_context = check_text(k.name, "ranked", rows, "rows", words, "words", KIND_NAMES[kind]);
                seal_once(k, side, strip_of(rng, rows, kind), nullptr, ALL, nullptr);
            }
            check_context = check_text(k.name, "ranked", rows, "rows", words, "words ties");
            seal_once(k, side, ties_of(rng, rows, 2), nullptr, ALL, nullptr);
            check_context = check_text(k.name, "ranked", rows, "rows", words, "words zeros of both signs");
            auto zeros = strip_of(rng, rows, SPREAD);
            for (size_t i = 0; i < zeros.size(); ++i) {
                zeros[i] = i/XQ_LANES % 4 ? (rng.below(2) ? 0.0f : -0.0f) : zeros[i];
            }
            seal_once(k, side, zeros, nullptr, ALL, nullptr);
            check_context = check_text(k.name, "ranked", rows, "rows", words, "words, holes");
            seal_once(k, side, strip_of(rng, rows, SPREAD), nullptr, MASKS[words % 6], nullptr);
        }
    }
}

void test_unbiased(const xq_cpu_kernels & k) {
    for (int bits = 1; bits <= 4; ++bits) {
        for (int n = 1; n <= 2; ++n) {
            for (const int lanes : {8, 16, 24, 32}) {
                for (int kind = 0; kind <= N_KINDS; ++kind) { // the last: every third token zero, and the rest
                    for (int form = 0; form < (kind == N_KINDS || lanes < 32 ? 2 : 6); ++form) {
                        check_context = check_text(k.name, "unbiased", bits, "bits", n, "strips", lanes, "lanes kind", kind, form);
                        dice rng((bits*10 + n)*1000 + lanes*10 + kind*31 + form);
                        xq_side side = uniform_side(XQ_TILE, bits, XQ_META_LOG8);
                        fenced<float> x((size_t) n*XQ_TILE*XQ_LANES);
                        for (int s = 0; s < n; ++s) {
                            const auto one = strip_of(rng, XQ_TILE, kind == N_KINDS ? (int) NORMAL : kind, form % 2 == 1);
                            for (int i = 0; i < XQ_TILE*XQ_LANES; ++i) {
                                const bool there = (s + 1 < n || i % XQ_LANES < lanes) && (kind < N_KINDS || i/XQ_LANES % 3 > 0);
                                x[s*XQ_TILE*XQ_LANES + i] = there ? one[i] : 0.0f;
                            }
                        }
                        fenced<uint8_t> ok(XQ_TILE);
                        for (int i = 0; i < XQ_TILE; ++i) {
                            ok[i] = rng.below(2);
                        }
                        const uint8_t * row_ok = form == 1 && kind == N_KINDS ? ok.data() : nullptr;
                        fenced<uint32_t> want(n*xq_side_words(side), 0xDEADBEEF), got(want);
                        fenced<uint8_t> want_meta(xq_meta_bytes(XQ_TILE, XQ_META_LOG8), 0xFF), got_meta(want_meta);
                        xq_ref_seal_unbiased(side, x.data(), n, lanes, row_ok, want.data(), want_meta.data());
                        k.seal_unbiased(side, x.data(), n, lanes, row_ok, got.data(), got_meta.data());
                        CHECK(got == want, "codes differ");
                        CHECK(got_meta == want_meta, "metadata differs");
                        into_digest(got);
                        into_digest(got_meta);
                        ++cases;
                    }
                }
            }
        }
    }
}

// Any bytes a strip's metadata may hold.
void test_metadata(const xq_cpu_kernels & k) {
    for (const int rows : DIMS) {
        for (int form = 0; form < 12; ++form) {
            check_context = check_text(k.name, "metadata", rows, "rows form", form);
            dice rng(rows*16 + form);
            const int meta = form % 4;
            const xq_side side = meta == XQ_META_RANKED ? ranked_side(rows, form < 6 ? 1 : rows/4) : uniform_side(rows, 1 + form % 3, meta);
            fenced<uint8_t> bytes(xq_meta_bytes(rows, meta));
            for (size_t i = 0; i < bytes.size(); ++i) {
                bytes[i] = (uint8_t) rng.bits();
            }
            const int halves = meta == XQ_META_F16 ? 2*rows : meta == XQ_META_Q8 ? 4 : meta == XQ_META_RANKED ? XQ_RANKED_HEAD/2 : 2;
            for (int i = 0; i < halves; ++i) {
                const bool log = meta == XQ_META_LOG8 || (meta == XQ_META_RANKED && i < 2);
                const uint16_t v = log ? (uint16_t) (i == 0 ? 15000 + rng.below(1000) : rng.below(meta == XQ_META_LOG8 ? 8 : 100))
                                       : ggml_fp32_to_fp16(rng.normal());
                std::memcpy(bytes.data() + 2*i, &v, 2);
            }
            fenced<float> scale(rows), zero(rows), want_scale(rows), want_zero(rows);
            k.read_meta(side, bytes.data(), scale.data(), zero.data());
            xq_ref_read_meta(side, bytes.data(), want_scale.data(), want_zero.data());
            CHECK(scale == want_scale && zero == want_zero);
            ++cases;
        }
    }
}
