// The primitives of attention one by one: within budgets, in rows that do not depend on each other.
#include "strips.h"

#include "reference/reference.h"

#include <vector>

namespace {

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

} // namespace

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
            const int at = rng.below(n);
            s[at] = NAN; // is no maximum, and stays one
            most = -INF;
            for (int i = 0; i < n; ++i) {
                most = s[i] > most ? s[i] : most;
            }
            CHECK(k.softmax(s.data(), n, &sum) == most && std::isnan(sum) && std::isnan(s[at]));
            for (const float odd : {NAN, INF, -INF}) {
                CHECK(k.finite(p.data(), n));
                const float was = p[at];
                p[at] = odd;
                CHECK(!k.finite(p.data(), n));
                p[at] = was;
            }
            ++cases;
        }
        fenced<float> none(n, -INF);
        float sum = NAN;
        CHECK(k.softmax(none.data(), n, &sum) == -INF && sum == 0.0f && none == fenced<float>(n, 0.0f));
        none = fenced<float>(n, -INF);
        none[n - 1] = NAN;
        CHECK(k.softmax(none.data(), n, &sum) == -INF && std::isnan(sum));
        ++cases;
    }
}
