#include "tools/layer_bench.h"

#include "kernels/cpu/attend.h"

#include <cmath>
#include <memory>
#include <random>
#include <vector>

namespace {

constexpr int LAYERS = 30, D = 64, KV_HEADS = 3, HEADS = 9;
constexpr int SAMPLES = 16; // different sealed strips, dealt out to all tiles
constexpr int PAGES = 5;    // the sink tile and the newest 128 tokens

struct model {
    // all layers, one behind the other
    std::vector<uint32_t> k_codes, v_codes;
    std::vector<uint8_t> k_meta, v_meta;
    std::vector<uint16_t> k_pages, v_pages;
    std::vector<float> q = std::vector<float>(HEADS*D), parts, out = std::vector<float>(HEADS*D);
    std::vector<uint16_t> mask;
    std::vector<int32_t> table;
    xq_side k, v;
    int tokens, tiles;

    model(int tokens, const xq_side & k, const xq_side & v) : k(k), v(v), tokens(tokens), tiles(tokens/XQ_TILE) {
        std::mt19937 rng(1);
        std::normal_distribution<float> normal;
        for (float & x : q) {
            x = normal(rng)*0.3f;
        }
        mask.resize(tokens);
        table = {0, tiles, 0, 0, 0, 0, 0, 0, tokens};
        for (int t = 0; t < tiles; ++t) {
            const int page = t == 0 ? 0 : t - (tiles - PAGES) > 0 ? t - (tiles - PAGES) : -1;
            table.insert(table.end(), {page, page >= 0 ? XQ_NOT_SEALED : 0});
        }
        k_pages.resize((size_t) LAYERS*PAGES*XQ_TILE*KV_HEADS*D, 0x3000); // f16
        v_pages = k_pages;
        parts.resize((size_t) xq_attend_parts(1, 1, KV_HEADS, HEADS, tokens, D)*HEADS*(D + 2));
        fill(rng);
    }

    void fill(std::mt19937 & rng) {
        const size_t kw = xq_head_words(k), vw = xq_head_words(v), km = xq_head_meta_bytes(k), vm = xq_head_meta_bytes(v);
        std::vector<uint32_t> ks(SAMPLES*kw), vs(SAMPLES*vw);
        std::vector<uint8_t> kms(SAMPLES*km), vms(SAMPLES*vm);
        std::normal_distribution<float> normal;
        std::vector<float> x(D*XQ_LANES);
        for (int s = 0; s < SAMPLES; ++s) {
            for (int i = 0; i < D*XQ_LANES; ++i) {
                x[i] = normal(rng)*std::exp2(normal(rng) > 1.0f ? 2.0f : 0.0f);
            }
            for (int i = 0; i < D; ++i) { // channels of very different ranges, as keys have
                const float wide = std::exp2(normal(rng));
                for (int l = 0; l < XQ_LANES; ++l) {
                    x[i*XQ_LANES + l] *= wide;
                }
            }
            xq_kernels_generic.seal_strip(k, x.data(), nullptr, 0xFFFFFFFFu, &ks[s*kw], false, &kms[s*km]);
            xq_kernels_generic.seal_unbiased(v, x.data(), v.strips, XQ_LANES, nullptr, &vs[s*vw], &vms[s*vm]);
        }
        const size_t heads = (size_t) LAYERS*tiles*KV_HEADS;
        k_codes.resize(heads*kw);
        v_codes.resize(heads*vw);
        k_meta.resize(heads*km);
        v_meta.resize(heads*vm);
        for (size_t i = 0; i < heads; ++i) {
            const size_t s = rng() % SAMPLES;
            std::copy_n(&ks[s*kw], kw, &k_codes[i*kw]);
            std::copy_n(&vs[s*vw], vw, &v_codes[i*vw]);
            std::copy_n(&kms[s*km], km, &k_meta[i*km]);
            std::copy_n(&vms[s*vm], vm, &v_meta[i*vm]);
        }
    }

    void step(const xq_cpu_kernels & kern) {
        for (size_t l = 0; l < LAYERS; ++l) {
            const size_t heads = l*tiles*KV_HEADS; // of the layers before
            xq_attend_args a{};
            a.layer.dk = a.layer.dv = D;
            a.layer.n_head_kv = KV_HEADS;
            a.layer.k = k;
            a.layer.v = v;
            a.layer.k_codes = &k_codes[heads*xq_head_words(k)];
            a.layer.v_codes = &v_codes[heads*xq_head_words(v)];
            a.layer.k_meta = &k_meta[heads*xq_head_meta_bytes(k)];
            a.layer.v_meta = &v_meta[heads*xq_head_meta_bytes(v)];
            a.layer.k_pages = &k_pages[l*PAGES*XQ_TILE*KV_HEADS*D];
            a.layer.v_pages = &v_pages[l*PAGES*XQ_TILE*KV_HEADS*D];
            a.layer.k_row = a.layer.v_row = KV_HEADS*D;
            a.q = q.data();
            a.q_token = HEADS*D;
            a.q_head = D;
            a.mask = mask.data();
            a.mask_token = a.mask_stream = tokens;
            a.table = table.data();
            a.n_head = HEADS;
            a.n_tokens = a.n_stream = 1;
            a.n_kv = tokens;
            a.scale = 0.125f;
            a.n_parts = xq_attend_parts(1, 1, KV_HEADS, HEADS, tokens, D);
            a.out = a.n_parts > 1 ? parts.data() : out.data();
            xq_attend(kern, a, 0, 1);
            if (a.n_parts > 1) {
                xq_combine(kern, parts.data(), out.data(), nullptr, D, v.rot, HEADS, 1, a.n_parts, 0, 1);
            }
        }
    }
};

} // namespace

std::function<void(const xq_cpu_kernels &)> xq_attend_bench(int tokens, const xq_side & k, const xq_side & v) {
    auto m = std::make_shared<model>(tokens, k, v);
    return [m](const xq_cpu_kernels & kern) { m->step(kern); };
}
