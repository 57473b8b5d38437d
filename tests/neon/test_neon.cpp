// Every implementation of the CPU primitives that runs here against the reference: what is packed byte for byte, what
// is computed within the budgets of tests/kernels/budgets.py (BUDGET_*, given by the compiler's command line).
//
//   test_neon [NAME ...]   test these, or all
//   test_neon --list       print all that run here, best first, then the one that xq_cpu() takes
#include "check.h"
#include "fenced.h"

#include "format/xq_ranked.h"
#include "format/xq_rotate.h"
#include "format/xq_unbiased.h"
#include "kernels/cpu/attend.h"
#include "reference/reference.h"

#include <csignal>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <vector>

namespace {

constexpr float INF  = std::numeric_limits<float>::infinity();
constexpr float EPS  = std::numeric_limits<float>::epsilon();
constexpr int   DIMS[] = {32, 40, 64, 72, 80, 96, 128, 192, 256};
constexpr uint32_t ALL = 0xFFFFFFFFu;
constexpr uint32_t MASKS[] = {0x0000FFFF, 0x00FFFFFF, 0xFFFFFFFE, 0x80000000, 0x5A5A1234, 0};
constexpr float ETA[] = {0, 1.0f/6, 0.045f, 0, 0};

long cases = 0;
uint64_t digest = 0xcbf29ce484222325ull; // of everything that was sealed: the same on every machine
std::map<std::string, double> worst;     // NMSE by test

template <class T> void into_digest(const fenced<T> & a) {
    const auto * p = (const uint8_t *) a.data();
    for (size_t i = 0; i < a.size()*sizeof(T); ++i) {
        digest = (digest ^ p[i])*0x100000001b3ull;
    }
}

void near(const char * test, double error, double power, double budget) {
    const double nmse = power > 0 ? error/power : error == 0 ? 0.0 : (double) INF;
    worst[test] = std::max(worst[test], nmse);
    CHECK(nmse <= budget, test, "NMSE", nmse);
}

xq_side uniform_side(int rows, int bits, int meta) {
    xq_side s{};
    s.bits = bits; s.meta = meta; s.rows = rows; s.strips = 1; s.lanes_last = XQ_LANES; s.eta = ETA[bits];
    return s;
}
xq_side ranked_side(int rows, int words) {
    xq_side s = uniform_side(rows, 0, XQ_META_RANKED);
    s.words = words; s.eta = ETA[1]; s.eta2 = ETA[2];
    return s;
}
xq_side values_side(int dv, int bits, int meta, bool rotated) {
    xq_side s = uniform_side(XQ_TILE, bits, meta);
    s.strips = (dv + 31)/32;
    s.lanes_last = dv - 32*(s.strips - 1);
    s.rot = rotated ? xq_rotate_block(dv) : 0;
    return s;
}

// Rows of a strip are channels, or lanes are.
fenced<float> strip_of(dice & rng, int rows, int kind, bool lanes_are_channels = false) {
    fenced<float> x((size_t) rows*XQ_LANES);
    for (int i = 0; i < rows; ++i) {
        for (int l = 0; l < XQ_LANES; ++l) {
            x[i*XQ_LANES + l] = value_of(rng, kind, lanes_are_channels ? l : i);
        }
    }
    return x;
}

// Sums that are half way between two codes, or next to it.
fenced<float> ties_of(dice & rng, int rows, int bits) {
    fenced<float> x((size_t) rows*XQ_LANES);
    for (int i = 0; i < rows; ++i) {
        const float factor = i % 3 == 0 ? 1.0f : i % 3 == 1 ? 0.1f : 3.7f;
        for (int l = 0; l < XQ_LANES; ++l) {
            float v = l == 0 ? 0.0f : l == 1 ? (float) xq_code_max(bits) : 0.5f*(float) rng.below(2*xq_code_max(bits) + 1);
            v = l > 1 && i % 4 == 1 ? std::nextafter(v, INF) : l > 1 && i % 4 == 2 ? std::nextafter(v, -INF) : v;
            x[i*XQ_LANES + l] = v*factor;
        }
    }
    return x;
}

// ---- seal --------------------------------------------------------------------------------------------------

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

// ---- products ----------------------------------------------------------------------------------------------

// Codes of a uniform strip of 1 to 4 or 8 bits, packed.
fenced<uint32_t> pack(const std::vector<int> & code, int rows, int bits) {
    fenced<uint32_t> words(xq_strip_words(rows, bits));
    uint32_t * plane = words.data();
    int shift = 0;
    for (int p = 0; p < xq_n_planes(bits); ++p) {
        const int b = xq_plane_bits(bits, p);
        for (int i = 0; i < rows*XQ_LANES; ++i) {
            uint32_t & w = plane[xq_code_word(i/XQ_LANES, b)*XQ_LANES + i%XQ_LANES];
            w = xq_code_put(w, i/XQ_LANES, b, (uint32_t) code[i] >> shift);
        }
        plane += xq_plane_words(rows, b)*XQ_LANES;
        shift += b;
    }
    return words;
}

void mac_once(const xq_cpu_kernels & k, const char * test, int bits, int rows, int n, const std::vector<int> & code, const std::vector<float> & m, float start, double budget) {
    const int stride = (rows + 31) & ~31;
    const auto words = pack(code, rows, bits);
    fenced<float> padded((size_t) n*stride), acc((size_t) n*XQ_LANES, start);
    for (int j = 0; j < n; ++j) {
        std::copy(&m[(size_t) j*rows], &m[(size_t) j*rows] + rows, padded.data() + (size_t) j*stride);
    }
    k.mac(bits, rows, words.data(), padded.data(), stride, n, acc.data(), XQ_LANES);
    double error = 0, power = 0;
    for (int j = 0; j < n; ++j) {
        double largest = 0;
        for (int i = 0; i < rows; ++i) {
            largest = std::max(largest, (double) std::fabs(m[j*rows + i]));
        }
        const double unit = largest > 0 ? largest : 1;
        fenced<float> alone(XQ_LANES, start);
        k.mac(bits, rows, words.data(), padded.data() + (size_t) j*stride, stride, 1, alone.data(), XQ_LANES);
        for (int l = 0; l < XQ_LANES; ++l) {
            double sum = start;
            for (int i = 0; i < rows; ++i) {
                sum += (double) m[j*rows + i]*code[i*XQ_LANES + l];
            }
            error += (acc[j*XQ_LANES + l] - sum)*(acc[j*XQ_LANES + l] - sum)/unit/unit;
            power += sum*sum/unit/unit;
            CHECK(alone[l] == acc[j*XQ_LANES + l], "a row depends on the others");
        }
    }
    near(test, error, power, budget);
    ++cases;
}

void test_mac(const xq_cpu_kernels & k) {
    for (const int bits : {1, 2, 3, 4, 8}) {
        const double budget = bits == 8 ? BUDGET_MAC_BYTES : BUDGET_MAC;
        for (const int rows : DIMS) {
            dice rng(rows*16 + bits);
            std::vector<int> code(rows*XQ_LANES);
            for (const int n : {1, 2, 3, 4, 5, 6, 7, 8, 13}) {
                check_context = check_text(k.name, "mac", bits, "bits", rows, "rows n =", n);
                for (auto & c : code) {
                    c = rng.below(xq_code_max(bits) + 1);
                }
                std::vector<float> m((size_t) n*rows);
                for (auto & v : m) {
                    v = rng.normal();
                }
                mac_once(k, bits == 8 ? "mac bytes" : "mac", bits, rows, n, code, m, n % 2 ? 0.0f : 100.0f, budget);
                for (int j = 0; j < n; ++j) {
                    m[j*rows + 17] *= 1000;
                }
                mac_once(k, "mac outlier", bits, rows, n, code, m, 0.0f, BUDGET_MAC_OUTLIER);
            }
            check_context = check_text(k.name, "mac", bits, "bits", rows, "rows: nothing overflows");
            std::fill(code.begin(), code.end(), xq_code_max(bits));
            for (const float big : {1.0f, -1.0f, 1e-30f, -1e30f}) {
                mac_once(k, "mac extremes", bits, rows, 5, code, std::vector<float>(5*(size_t) rows, big), 0.0f, BUDGET_MAC);
            }
            std::vector<float> low((size_t) rows, 128/32512.0f); // hi rounds up, lo is -128
            low[0] = 1;
            mac_once(k, "mac extremes", bits, rows, 1, code, low, 0.0f, BUDGET_MAC);
            std::vector<float> lower((size_t) rows, 127/32512.0f);
            lower[rows - 1] = -1;
            mac_once(k, "mac extremes", bits, rows, 1, code, lower, 0.0f, BUDGET_MAC);
            check_context = check_text(k.name, "mac", bits, "bits", rows, "rows: zero multipliers");
            mac_once(k, "mac extremes", bits, rows, 3, code, std::vector<float>(3*(size_t) rows, 0.0f), 2.5f, 0);
        }
        check_context = check_text(k.name, "mac", bits, "bits row by row");
        dice rng(bits);
        const int rows = 72;
        std::vector<int> code(rows*XQ_LANES);
        for (auto & c : code) {
            c = rng.below(xq_code_max(bits) + 1);
        }
        const auto words = pack(code, rows, bits);
        for (int i = 0; i < rows; ++i) {
            fenced<float> m(96), acc(XQ_LANES);
            m[i] = 1;
            k.mac(bits, rows, words.data(), m.data(), 96, 1, acc.data(), XQ_LANES);
            for (int l = 0; l < XQ_LANES; ++l) {
                CHECK(std::fabs(acc[l] - (float) code[i*XQ_LANES + l]) <= 1e-6f*(float) code[i*XQ_LANES + l], "row", i);
            }
        }
        ++cases;
    }
}

void test_rows(const xq_cpu_kernels & k) {
    for (const int rows : {12, 32, 40, 64, 72, 80, 96, 128, 192, 256}) {
        check_context = check_text(k.name, "scale_row", rows, "rows");
        dice rng(rows);
        const int padded = (rows + 31) & ~31;
        fenced<float> x(rows), scale(rows), zero(rows), m(padded, NAN);
        double sum = 0, size = 0;
        float most = 0, top = NAN;
        for (int i = 0; i < rows; ++i) {
            x[i] = rng.normal(); scale[i] = rng.normal(); zero[i] = rng.normal();
            sum  += (double) x[i]*zero[i];
            size += std::fabs((double) x[i]*zero[i]);
            most = std::max(most, std::fabs(x[i]*scale[i]));
        }
        CHECK(std::fabs(k.scale_row(x.data(), scale.data(), zero.data(), rows, m.data(), &top) - sum) <= 1e-6*size);
        CHECK(top == most);
        for (int i = 0; i < padded; ++i) {
            CHECK(m[i] == (i < rows ? x[i]*scale[i] : 0.0f), "row", i);
        }
        ++cases;
        if (rows % 8 != 0) {
            continue;
        }
        check_context = check_text(k.name, "order_row", rows, "rows");
        const xq_side side = ranked_side(rows, rows/10);
        const auto strip = strip_of(rng, rows, SPREAD);
        fenced<uint32_t> codes(xq_side_words(side));
        fenced<uint8_t> meta(xq_meta_bytes(rows, side.meta));
        xq_ref_seal_strip(side, strip.data(), nullptr, ALL, codes.data(), false, meta.data());
        xq_segments segments;
        xq_read_segments(side, meta.data(), segments);
        fenced<float> got(segments.width, NAN), want(segments.width, NAN);
        const float got_top = k.order_row(segments, m.data(), got.data());
        CHECK(got_top == xq_kernels_generic.order_row(segments, m.data(), want.data()));
        CHECK(got == want);
        ++cases;
    }
}

void test_floats(const xq_cpu_kernels & k) {
    for (const int dim : DIMS) {
        for (const int n : {1, 2, 3, 4, 7, 8}) {
            check_context = check_text(k.name, "gemm", dim, "rows n =", n);
            dice rng(dim*16 + n);
            const auto fill = [&rng](fenced<float> & x) { for (size_t i = 0; i < x.size(); ++i) { x[i] = as_f16(rng.normal()); } };
            const int lda = dim + 4, ldc = XQ_LANES + 8;
            fenced<float> a((size_t) n*lda), b((size_t) dim*XQ_LANES), c((size_t) n*ldc);
            fill(a); fill(b); fill(c);
            fenced<float> got(c);
            k.gemm32(a.data(), lda, n, b.data(), dim, got.data(), ldc);
            double error = 0, power = 0;
            for (int j = 0; j < n; ++j) {
                for (int l = 0; l < ldc; ++l) {
                    double sum = c[j*ldc + l];
                    for (int i = 0; i < dim && l < XQ_LANES; ++i) {
                        sum += (double) a[j*lda + i]*b[i*XQ_LANES + l];
                    }
                    error += (got[j*ldc + l] - sum)*(got[j*ldc + l] - sum);
                    power += sum*sum;
                    CHECK(l < XQ_LANES || got[j*ldc + l] == c[j*ldc + l], "wrote beyond 32 lanes");
                }
            }
            near("gemm32", error, power, 1e-12);
            ++cases;

            const int lanes = 32 - 4*(n % 3); // 32, 28, 24
            const int ldb = lanes + (n == 1 ? 0 : 8);
            fenced<uint16_t> h((size_t) 31*ldb + lanes);
            for (size_t i = 0; i < h.size(); ++i) {
                h[i] = ggml_fp32_to_fp16(rng.normal());
            }
            got = c;
            k.gemm32_f16(a.data(), lda, n, h.data(), ldb, XQ_TILE, lanes, got.data(), ldc);
            error = power = 0;
            for (int j = 0; j < n; ++j) {
                for (int l = 0; l < ldc; ++l) {
                    double sum = c[j*ldc + l];
                    for (int i = 0; i < XQ_TILE && l < lanes; ++i) {
                        sum += (double) a[j*lda + i]*ggml_fp16_to_fp32(h[i*ldb + l]);
                    }
                    error += (got[j*ldc + l] - sum)*(got[j*ldc + l] - sum);
                    power += sum*sum;
                }
            }
            near("gemm32_f16", error, power, 1e-12);
            ++cases;
        }
    }
    for (const int dim : {20, 32, 40, 64, 72, 80, 96, 128, 192, 256}) {
        check_context = check_text(k.name, "transpose", dim);
        dice rng(dim);
        const size_t ld = dim + 24;
        fenced<uint16_t> in(31*ld + dim);
        for (size_t i = 0; i < in.size(); ++i) {
            in[i] = (uint16_t) (rng.bits() & 0xFBFF); // no NaN
        }
        fenced<float> out((size_t) dim*XQ_LANES, NAN);
        k.transpose_f16(in.data(), ld, dim, out.data());
        bool same = true;
        for (int i = 0; i < dim; ++i) {
            for (int t = 0; t < XQ_TILE; ++t) {
                same = same && out[i*XQ_LANES + t] == ggml_fp16_to_fp32(in[t*ld + i]);
            }
        }
        CHECK(same);
        ++cases;
    }
    for (const int block : {4, 8, 16, 32, 64}) {
        check_context = check_text(k.name, "rotate", block);
        dice rng(block);
        fenced<float> x((size_t) block*5);
        for (size_t i = 0; i < x.size(); ++i) {
            x[i] = rng.normal();
        }
        fenced<float> want(x);
        k.rotate(x.data(), block*5, block);
        xq_ref_rotate(want.data(), block*5, block);
        CHECK(x == want);
        ++cases;
    }
    for (int n = 32; n <= 256; n += 32) {
        for (const float spread : {0.0f, 1.0f, 20.0f, 1000.0f}) {
            check_context = check_text(k.name, "softmax", n, spread);
            dice rng(n);
            fenced<float> s(n);
            float most = -INF;
            for (int i = 0; i < n; ++i) {
                s[i] = rng.below(5) == 0 ? -INF : spread*rng.normal();
                most = std::max(most, s[i]);
            }
            fenced<float> p(s);
            float sum = NAN;
            CHECK(k.softmax(p.data(), n, &sum) == most);
            double want_sum = 0;
            for (int i = 0; i < n; ++i) {
                const double want = std::exp((double) (s[i] - most));
                want_sum += want;
                CHECK(std::fabs(p[i] - want) <= 4e-7*want + 1e-37, p[i], want);
                CHECK(s[i] > -INF || p[i] == 0.0f);
            }
            CHECK(std::fabs(sum - want_sum) <= 1e-6*want_sum, sum, want_sum);
            ++cases;
        }
        fenced<float> none(n, -INF);
        float sum = NAN;
        CHECK(k.softmax(none.data(), n, &sum) == -INF && sum == 0.0f && none == fenced<float>(n, 0.0f));
        ++cases;
    }
}

// ---- layers ------------------------------------------------------------------------------------------------

struct shape {
    int dk, dv, group, tokens, n_kv;
    xq_side k, v;
    int kind = NORMAL;
    float softcap = 0, max_bias = 0;
    bool sinks = false, holes = false, parts = false;
    double budget = BUDGET_ATTENTION;
};

// One stream of tiles in every form: sealed, on a page, both, empty. Sealed by the implementation out of pages.
void layer_once(const xq_cpu_kernels & k, const shape & s, uint64_t seed) {
    constexpr int HEADS = 2;
    dice rng(seed);
    const int tiles = (s.n_kv + 31)/32, n_head = HEADS*s.group;
    xq_layer_view L{};
    L.dk = s.dk; L.dv = s.dv; L.n_head_kv = HEADS; L.k = s.k; L.v = s.v;
    fenced<uint32_t> k_codes((size_t) tiles*HEADS*xq_head_words(s.k), ALL), v_codes((size_t) tiles*HEADS*xq_head_words(s.v), ALL);
    fenced<uint8_t> k_meta((size_t) tiles*HEADS*xq_head_meta_bytes(s.k), 0xFF), v_meta((size_t) tiles*HEADS*xq_head_meta_bytes(s.v), 0xFF);
    fenced<uint16_t> k_pages((size_t) tiles*XQ_TILE*HEADS*s.dk), v_pages((size_t) tiles*XQ_TILE*HEADS*s.dv);
    for (size_t i = 0; i < k_pages.size(); ++i) {
        k_pages[i] = ggml_fp32_to_fp16(value_of(rng, s.kind, (int) (i % s.dk)));
    }
    for (size_t i = 0; i < v_pages.size(); i += s.dv) {
        std::vector<float> row(s.dv);
        for (int c = 0; c < s.dv; ++c) {
            row[c] = value_of(rng, s.kind, c);
        }
        if (s.v.rot) {
            xq_ref_rotate(row.data(), s.dv, s.v.rot);
        }
        for (int c = 0; c < s.dv; ++c) {
            v_pages[i + c] = ggml_fp32_to_fp16(row[c]);
        }
    }
    L.k_codes = k_codes.data(); L.v_codes = v_codes.data(); L.k_meta = k_meta.data(); L.v_meta = v_meta.data();
    L.k_pages = k_pages.data(); L.v_pages = v_pages.data();
    L.k_row = (size_t) HEADS*s.dk; L.v_row = (size_t) HEADS*s.dv;
    L.k_leads = L.v_leads = true;

    // the table: queries at the last positions; form of tile t: 0 sealed, 1 page, 2 both, 3 neither
    std::vector<int32_t> table(xq_table_tiles_at(s.tokens)), seals;
    std::vector<uint32_t> cells(tiles, ALL);
    std::vector<int> form(tiles);
    const int first = s.n_kv - s.tokens;
    for (int t = 0; t < s.tokens; ++t) {
        table[XQ_TABLE_HEAD + t] = first + t;
    }
    for (int t = 0; t < tiles; ++t) {
        static const int forms[] = {0, 1, 2, 3, 0, 2};
        form[t] = forms[(t + seed) % 6];
        cells[t] = s.holes ? rng.bits() | 32u : ALL;
        table.push_back(form[t] == 1 || form[t] == 2 ? t : -1);
        table.push_back(form[t] == 0 || form[t] == 2 ? first + rng.below(s.tokens + 1) : XQ_NOT_SEALED);
        if (form[t] == 0 || form[t] == 2) {
            seals.insert(seals.end(), {0, t, t, (int32_t) cells[t]});
        }
    }
    table[1] = tiles;
    table[2] = (int32_t) table.size();
    table[3] = (int32_t) seals.size()/XQ_SEAL_INTS;
    table.insert(table.end(), seals.begin(), seals.end());

    fenced<uint32_t> want_k(k_codes), want_v(v_codes);
    fenced<uint8_t> want_km(k_meta), want_vm(v_meta);
    xq_layer_view R = L;
    R.k_codes = want_k.data(); R.v_codes = want_v.data(); R.k_meta = want_km.data(); R.v_meta = want_vm.data();
    xq_seal_tiles(xq_kernels_generic, R, table.data(), 0, 1); // which seals with the reference
    xq_seal_tiles(k, L, table.data(), 0, 1);
    CHECK(k_codes == want_k && k_meta == want_km, "keys differ");
    CHECK(v_codes == want_v && v_meta == want_vm, "values differ");
    into_digest(k_codes); into_digest(k_meta); into_digest(v_codes); into_digest(v_meta);

    // queries and mask
    fenced<float> q((size_t) s.tokens*n_head*s.dk), sinks(n_head), out((size_t) s.tokens*n_head*s.dv, NAN);
    for (size_t i = 0; i < q.size(); ++i) {
        q[i] = rng.normal();
    }
    for (int h = 0; h < n_head; ++h) {
        sinks[h] = rng.normal();
    }
    fenced<uint16_t> mask((size_t) s.tokens*s.n_kv);
    for (int t = 0; t < s.tokens; ++t) {
        for (int c = 0; c < s.n_kv; ++c) {
            const bool hidden = c > first + t || !(cells[c/32] >> c%32 & 1) || (s.holes && rng.below(10) == 0);
            mask[t*s.n_kv + c] = hidden ? 0xFC00 : s.max_bias > 0 ? ggml_fp32_to_fp16(-(float) (first + t - c)) : 0;
        }
    }
    xq_attend_args a{};
    a.layer = L;
    a.q = q.data(); a.q_head = s.dk; a.q_token = (size_t) n_head*s.dk;
    a.mask = mask.data(); a.mask_token = s.n_kv; a.mask_stream = (size_t) s.n_kv*s.tokens;
    a.table = table.data();
    a.sinks = s.sinks ? sinks.data() : nullptr;
    a.n_head = n_head; a.n_tokens = s.tokens; a.n_stream = 1; a.n_kv = s.n_kv;
    a.scale = 1/std::sqrt((float) s.dk); a.softcap = s.softcap; a.max_bias = s.max_bias;
    a.n_parts = s.parts ? (s.n_kv + XQ_TILE*XQ_CHUNK_TILES - 1)/(XQ_TILE*XQ_CHUNK_TILES) : 1;
    if (a.n_parts > 1) {
        fenced<float> parts((size_t) a.n_parts*s.tokens*n_head*(s.dv + 2), NAN);
        a.out = parts.data();
        xq_attend(k, a, 0, 2);
        xq_attend(k, a, 1, 2);
        xq_combine(k, parts.data(), out.data(), a.sinks, s.dv, s.v.rot, n_head, s.tokens, a.n_parts, 0, 1);
        fenced<float> whole(out.size(), NAN);
        a.out = whole.data();
        a.n_parts = 1;
        xq_attend(k, a, 0, 1);
        CHECK(whole == out, "parts and whole rows differ");
    } else {
        a.out = out.data();
        xq_attend(k, a, 0, 1);
    }

    // what must come out
    double error = 0, power = 0;
    for (int h = 0; h < HEADS; ++h) {
        std::vector<std::vector<float>> keys(3), values(3); // by form of reading
        for (int read : {XQ_READ_PAGE, XQ_READ_CODES}) {
            keys[read].assign((size_t) tiles*XQ_TILE*s.dk, 0.0f);
            values[read].assign((size_t) tiles*XQ_TILE*s.dv, 0.0f);
        }
        std::vector<float> strip((size_t) XQ_MAX_HEAD_DIM*XQ_LANES);
        for (int t = 0; t < tiles; ++t) {
            for (int c = 0; c < XQ_TILE; ++c) {
                for (int i = 0; i < s.dk; ++i) {
                    keys[XQ_READ_PAGE][(t*XQ_TILE + c)*s.dk + i] = ggml_fp16_to_fp32(k_pages[(t*XQ_TILE + c)*L.k_row + h*s.dk + i]);
                }
                for (int i = 0; i < s.dv; ++i) {
                    values[XQ_READ_PAGE][(t*XQ_TILE + c)*s.dv + i] = ggml_fp16_to_fp32(v_pages[(t*XQ_TILE + c)*L.v_row + h*s.dv + i]);
                }
            }
            if (form[t] != 0 && form[t] != 2) {
                continue;
            }
            xq_ref_unpack_strip(s.k, R.k_tile(0, t, h), R.k_tile_meta(0, t, h), strip.data());
            for (int i = 0; i < s.dk*XQ_TILE; ++i) {
                keys[XQ_READ_CODES][(t*XQ_TILE + i%XQ_TILE)*s.dk + i/XQ_TILE] = strip[i];
            }
            for (int g = 0; g < s.v.strips; ++g) {
                xq_ref_unpack_strip(s.v, R.v_tile(0, t, h) + (size_t) g*xq_side_words(s.v), R.v_tile_meta(0, t, h) + xq_meta_at(s.v, g), strip.data());
                for (int i = 0; i < XQ_TILE*XQ_LANES; ++i) {
                    const int channel = g*XQ_LANES + i%XQ_LANES;
                    if (channel < s.dv) {
                        values[XQ_READ_CODES][(t*XQ_TILE + i/XQ_LANES)*s.dv + channel] = strip[i];
                    }
                }
            }
        }
        std::vector<float> ks, vs, ms, want(s.dv);
        for (int t = 0; t < s.tokens; ++t) {
            for (int r = 0; r < s.group; ++r) {
                const int head = h*s.group + r;
                const int n2 = 1 << (int) std::floor(std::log2((float) n_head));
                const double slope = s.max_bias <= 0 ? 1 : head < n2 ? std::pow(2.0, -s.max_bias*(head + 1)/n2)
                                                                     : std::pow(2.0, -s.max_bias*0.5*(2*(head - n2) + 1)/n2);
                ks.clear(); vs.clear(); ms.clear();
                for (int c = 0; c < s.n_kv; ++c) {
                    const int32_t * e = &table[xq_table_tiles_at(s.tokens) + c/32*XQ_TILE_INTS];
                    const int read = xq_tile_read(e[0], e[1], first + t);
                    if (read == XQ_READ_NONE || mask[t*s.n_kv + c] == 0xFC00) {
                        continue;
                    }
                    ks.insert(ks.end(), &keys[read][c*s.dk], &keys[read][c*s.dk] + s.dk);
                    vs.insert(vs.end(), &values[read][c*s.dv], &values[read][c*s.dv] + s.dv);
                    ms.push_back((float) (slope*ggml_fp16_to_fp32(mask[t*s.n_kv + c])));
                }
                const size_t row = (size_t) t*n_head + head;
                xq_ref_attend(q.data() + row*s.dk, ks.data(), vs.data(), ms.data(), (int) ms.size(), s.dk, s.dv, a.scale, s.softcap,
                              s.sinks ? sinks[head] : -INF, want.data());
                if (s.v.rot) {
                    xq_ref_rotate(want.data(), s.dv, s.v.rot);
                }
                for (int i = 0; i < s.dv; ++i) {
                    const double d = (double) out[row*s.dv + i] - want[i];
                    error += d*d;
                    power += (double) want[i]*want[i];
                }
            }
        }
    }
    near(s.budget == BUDGET_ATTENTION ? "attention" : s.budget == BUDGET_ATTENTION_SHARP ? "attention, sharp" : "attention, outlier", error, power, s.budget);
    ++cases;
}

void test_layers(const xq_cpu_kernels & k) {
    constexpr int GROUPS[] = {1, 2, 3, 7, 8};
    constexpr int TOKENS[] = {1, 2, 5, 1, 20, 3, 1};
    constexpr int CELLS[]  = {100, 161, 230, 64, 290};
    constexpr int KINDS[]  = {NORMAL, SPREAD, NORMAL, CONSTANT, OUTLIER, TINY, NORMAL, HUGE_VALUES};
    for (int i = 0; i < 120; ++i) {
        shape s{};
        s.dk = DIMS[i % 9];
        s.dv = i % 4 == 3 ? DIMS[(i + 4) % 9] : s.dk;
        s.group  = GROUPS[i % 5];
        s.tokens = TOKENS[i % 7];
        s.n_kv   = CELLS[(i + i/5) % 5];
        if (i % 3 == 0) { // equal widths
            s.k = uniform_side(s.dk, 1 + i/3 % 4, i % 2 ? XQ_META_F16 : XQ_META_Q8);
        } else {
            const float bits[] = {1.0f, 1.7f, 2.3f, 3.0f, 4.5f, 6.0f, 8.0f};
            s.k = ranked_side(s.dk, std::max(1, (int) (bits[i/2 % 7]*(float) s.dk/32 + 0.5f)));
        }
        const int v_bits = 1 + i/2 % 4;
        s.v = i % 5 < 2 ? values_side(s.dv, v_bits, i % 2 ? XQ_META_Q8 : XQ_META_F16, i % 7 == 0) : values_side(s.dv, v_bits, XQ_META_LOG8, true);
        s.kind     = KINDS[i % 8];
        s.softcap  = i % 11 == 5 ? 30.0f : 0.0f;
        s.max_bias = i % 13 == 6 ? 8.0f : 0.0f;
        s.sinks    = i % 6 == 4;
        s.holes    = i % 7 == 2;
        s.parts    = s.n_kv > 256 && s.tokens < 5;
        // as in tests/kernels: huge keys make logits of ten thousands there too
        s.budget = s.kind == OUTLIER ? BUDGET_REQUIRED : s.kind == SPREAD ? BUDGET_ATTENTION_SHARP : BUDGET_ATTENTION;
        check_context = check_text(k.name, "layer", i, "dk", s.dk, "dv", s.dv, "group", s.group, "tokens", s.tokens, "n_kv", s.n_kv, KIND_NAMES[s.kind],
                                   "k bits", s.k.bits, "words", s.k.words, "v bits", s.v.bits, "meta", s.v.meta);
        layer_once(k, s, 1000 + i);
    }
}

void crashed(int signal) {
    std::printf("signal %d  [%s]\n", signal, check_context.c_str());
    std::fflush(stdout);
    std::_Exit(3);
}

} // namespace

int main(int argc, char ** argv) {
    for (const int s : {SIGSEGV, SIGBUS, SIGILL, SIGFPE}) {
        std::signal(s, crashed);
    }
    const xq_cpu_kernels * list[8];
    const int n = xq_cpu_list(list, 8);
    if (argc == 2 && std::strcmp(argv[1], "--list") == 0) {
        for (int i = 0; i < n; ++i) {
            std::printf("%s ", list[i]->name);
        }
        std::printf("%s\n", xq_cpu().name);
        return 0;
    }
    for (int i = 0; i < n; ++i) {
        const xq_cpu_kernels & k = *list[i];
        if (argc > 1 && std::none_of(argv + 1, argv + argc, [&k](const char * name) { return std::strcmp(k.name, name) == 0; })) {
            continue;
        }
        const long before = cases;
        digest = 0xcbf29ce484222325ull;
        worst.clear();
        test_uniform(k);
        test_ranked(k);
        test_unbiased(k);
        test_metadata(k);
        test_mac(k);
        test_rows(k);
        test_floats(k);
        test_layers(k);
        std::printf("%s: %ld cases, digest %016llx\n", k.name, cases - before, (unsigned long long) digest);
        for (const auto & [test, nmse] : worst) {
            std::printf("    worst NMSE of %s: %.1e\n", test.c_str(), nmse);
        }
        std::fflush(stdout);
    }
    return check_report();
}
