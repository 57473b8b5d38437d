// Time and instructions of the CPU kernels, an element of the cache at a time.
//
//   xq-kernel-bench                      every implementation and form: ns an element, cycles by the time-stamp counter
//   xq-kernel-bench avx512 attend-8k     the attention of one decode step at 8192 tokens, one thread
//   valgrind --tool=callgrind --toggle-collect='measured*' xq-kernel-bench avx2 keys-2 100
//                                        instructions of 100 calls of one kernel; an element is one of 64 x 32
//
// Arguments: implementation, kernel, calls; "all" or nothing stands for every one.
#include "format/xq_rotate.h"
#include "kernels/cpu/kernels.h"
#include "reference/reference.h"
#include "tools/layer_bench.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#if defined(__x86_64__)
#include <x86intrin.h>
static unsigned long long ticks() { return __rdtsc(); }
#else
static unsigned long long ticks() { return 0; }
#endif

namespace {

constexpr int D = 64, ROWS = 3; // SmolLM2: head dim 64, three query heads share a KV head

struct kernel {
    std::string name;
    int elements; // of the cache, in one call
    std::function<void(const xq_cpu_kernels &)> call;
};

struct data {
    std::vector<float> x = std::vector<float>(D*XQ_LANES), q = std::vector<float>(ROWS*D), out = std::vector<float>(ROWS*2*XQ_LANES);
    std::vector<uint32_t> codes = std::vector<uint32_t>(16*1024);
    std::vector<uint8_t>  meta  = std::vector<uint8_t>(4096);
    data() {
        std::mt19937 rng(1);
        std::normal_distribution<float> normal;
        for (int i = 0; i < D; ++i) {
            for (int l = 0; l < XQ_LANES; ++l) {
                x[i*XQ_LANES + l] = normal(rng)*(float) (1 << i % 6); // channels of very different ranges, as keys have
            }
        }
        for (float & v : q) {
            v = normal(rng)*0.01f;
        }
    }
};

xq_side keys(int bits, double ranked) {
    xq_side s{};
    s.rows = D; s.strips = 1; s.lanes_last = XQ_LANES; s.eta = s.eta2 = 0.045f;
    s.bits = bits; s.meta = XQ_META_Q8;
    if (ranked > 0) {
        s.bits = 0; s.meta = XQ_META_RANKED; s.words = (int) (ranked*D/32);
    }
    return s;
}

xq_side values(int bits, int meta) {
    xq_side s{};
    s.rows = XQ_TILE; s.strips = D/XQ_LANES; s.lanes_last = XQ_LANES; s.bits = bits; s.meta = meta; s.eta = 0.045f;
    s.rot = meta == XQ_META_LOG8 ? xq_rotate_block(D) : 0;
    return s;
}

void add_side(std::vector<kernel> & out, const std::string & name, const xq_side & side, bool is_key) {
    const auto seal = [side, is_key](const xq_cpu_kernels & k, data & d) {
        if (side.meta == XQ_META_LOG8) {
            k.seal_unbiased(side, d.x.data(), 2, XQ_LANES, nullptr, d.codes.data(), d.meta.data());
            return;
        }
        for (int g = 0; g < side.strips; ++g) {
            k.seal_strip(side, d.x.data() + (is_key ? 0 : g*XQ_TILE*XQ_LANES), nullptr, 0xFFFFFFFFu, d.codes.data() + g*xq_side_words(side), false,
                         d.meta.data() + xq_meta_at(side, g));
        }
    };
    auto d = std::make_shared<data>();
    seal(xq_kernels_generic, *d);
    xq_sealed_tiles tiles; // the same one, a chunk of it
    for (; tiles.n < XQ_CHUNK_TILES; ++tiles.n) {
        tiles.codes[tiles.n] = d->codes.data();
        tiles.meta[tiles.n]  = d->meta.data();
        tiles.at[tiles.n]    = 0;
    }
    if (is_key) {
        out.push_back({"keys-" + name, XQ_CHUNK_TILES*D*XQ_TILE, [side, tiles, d](const xq_cpu_kernels & k) {
            uint64_t coarse[XQ_CHUNK_TILES];
            k.key_scores(side, tiles, d->q.data(), D, ROWS, d->out.data(), 2*XQ_LANES, coarse);
        }});
    } else {
        out.push_back({"values-" + name, XQ_CHUNK_TILES*D*XQ_TILE, [side, tiles, d](const xq_cpu_kernels & k) {
            k.add_values(side, tiles, d->q.data(), D, ROWS, d->out.data(), 2*XQ_LANES);
        }});
    }
    auto other = std::make_shared<data>();
    out.push_back({"seal-" + std::string(is_key ? "k" : "v") + name, D*XQ_TILE, [side, other, seal](const xq_cpu_kernels & k) { seal(k, *other); }});
}

std::vector<kernel> all_kernels() {
    std::vector<kernel> out;
    for (int bits = 1; bits <= 4; ++bits) {
        add_side(out, std::to_string(bits), keys(bits, 0), true);
    }
    for (double bits : {1.5, 2.0, 3.0, 4.5}) {
        char name[32];
        std::snprintf(name, sizeof(name), "ranked%g", bits);
        add_side(out, name, keys(0, bits), true);
    }
    for (int bits = 1; bits <= 4; ++bits) {
        add_side(out, std::to_string(bits), values(bits, XQ_META_Q8), false);
        add_side(out, "unbiased" + std::to_string(bits), values(bits, XQ_META_LOG8), false);
    }
    auto d = std::make_shared<data>();
    out.push_back({"softmax", 256, [d](const xq_cpu_kernels & k) { float sum; k.softmax(d->x.data(), 256, &sum); }});
    out.push_back({"rotate", D, [d](const xq_cpu_kernels & k) { k.rotate(d->x.data(), D, xq_rotate_block(D)); }});
    out.push_back({"attend-8k", 30*8192*3*2*D, xq_attend_bench(8192, keys(0, 2.0), values(2, XQ_META_LOG8))}); // SmolLM2, `balanced`
    return out;
}

} // namespace

// Apart and not inlined, so that callgrind can be told to count nothing else.
__attribute__((noinline)) void measured(const kernel & what, const xq_cpu_kernels & k, int calls) {
    for (int i = 0; i < calls; ++i) {
        what.call(k);
    }
}

int main(int argc, char ** argv) {
    const auto argument = [&](int i) { return std::string(i < argc ? argv[i] : "all"); };
    const xq_cpu_kernels * list[8];
    const int n = xq_cpu_list(list, 8);
    std::printf("| kernel | implementation | ns an element | cycles an element |\n|---|---|---|---|\n");
    for (const kernel & what : all_kernels()) {
        const int calls = argc > 3 ? std::atoi(argv[3]) : std::max(1, 20000*D*XQ_TILE/what.elements);
        if (argument(2) != "all" && argument(2) != what.name) {
            continue;
        }
        for (int i = 0; i < n; ++i) {
            if (argument(1) != "all" && argument(1) != list[i]->name) {
                continue;
            }
            double best_ns = 1e30, best_ticks = 1e30;
            for (int round = 0; round < (argc > 3 ? 1 : 5); ++round) {
                const auto start = std::chrono::steady_clock::now();
                const auto first = ticks();
                measured(what, *list[i], calls);
                best_ticks = std::min(best_ticks, (double) (ticks() - first));
                best_ns    = std::min(best_ns, std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count());
            }
            const double each = (double) calls*what.elements;
            std::printf("| %s | %s | %.4f | %.3f |\n", what.name.c_str(), list[i]->name, best_ns/each, best_ticks/each);
        }
    }
    return 0;
}
