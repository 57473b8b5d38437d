// A small ggml graph of packed layers on some backend, for programs that compare two backends: a layer's pages are filled,
// some tiles sealed, and a micro-batch attends to them.
#pragma once

#include "../cpp/check.h"

#include "cache/plan.h"
#include "format/xq_table.h"
#include "graph/nodes.h"
#include "kernels/gpu/launch.h"

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <vector>

struct scenario {
    const char * name;
    const char * config;
    int dk, dv, heads_kv, group, n_kv, tokens;     // tokens: new ones of every stream
    int streams, used, first;                      // of the cache, of the micro-batch
    float softcap, max_bias;
    bool sinks;
};

inline const scenario SCENARIOS[] = {
    {"ranked keys", "", 64, 64, 2, 4, 290, 3, 1, 1, 0, 0.0f, 0.0f, false},
    {"followers", "k_alloc=uniform,k_bits=3,v_bits=3,v_fit=minmax,v_rot=none,k_share_from=0,v_share_from=0", 80, 96, 2, 3, 100, 2, 1, 1, 0,
     5.0f, 8.0f, true},
    {"streams", "k_share_from=0,k_alloc=uniform", 40, 72, 1, 2, 161, 20, 3, 2, 1, 0.0f, 0.0f, true},
};

constexpr int LAYERS = 2;
constexpr int SEALED = 3; // first tiles of a stream, in the second step

struct layer {
    xq_node_layer  node{};
    xq_node_planes planes{};
};

struct world {
    const scenario & s;
    ggml_backend_t backend;
    std::function<void(ggml_cgraph *)> compute;
    ggml_context * ctx;
    std::vector<layer> layers;
    int n_layers, n_tiles, n_rows;
    std::mt19937 rng{7};
    std::vector<ggml_tensor *> outputs;

    // compute: runs a graph; else the backend does.
    world(const scenario & s, ggml_backend_t backend, std::function<void(ggml_cgraph *)> compute = nullptr, int n_layers = LAYERS)
        : s(s), backend(backend), compute(std::move(compute)), n_layers(n_layers), n_tiles((s.n_kv + XQ_TILE - 1)/XQ_TILE),
          n_rows(n_tiles*XQ_TILE) {
        ctx = context(n_layers);
        std::vector<xq_layer_shape> shapes;
        for (int il = 0; il < n_layers; ++il) {
            shapes.push_back({il, s.heads_kv, s.dk, s.dv, s.heads_kv*s.group});
        }
        for (const auto & plan : xq_make_plan(xq_config_parse(s.config), shapes)) {
            add_layer(plan);
        }
        ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors(ctx, backend);
        ggml_backend_buffer_clear(buffer, 0);
    }

    static ggml_context * context(int n_layers = LAYERS) {
        return ggml_init({(size_t) 32*n_layers*ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true});
    }

    void add_layer(const xq_layer_plan & plan) {
        layer l;
        xq_node_layer & n = l.node;
        const int64_t heads = (int64_t) n_tiles*s.heads_kv;
        n.k = plan.k; n.v = plan.v;
        n.dk = s.dk; n.dv = s.dv; n.n_head_kv = s.heads_kv;
        n.k_leads = plan.k_leader == plan.shape.il;
        n.v_leads = plan.v_leader == plan.shape.il;
        n.k_code_stream = heads*xq_head_words(plan.k);
        n.v_code_stream = heads*xq_head_words(plan.v);
        n.v_meta_at   = heads*xq_head_meta_bytes(plan.k);
        n.meta_stream = n.v_meta_at + heads*xq_head_meta_bytes(plan.v);
        n.page_stream = n_rows;
        n.k_row = (int64_t) s.heads_kv*s.dk;
        n.v_row = (int64_t) s.heads_kv*s.dv;
        const auto pages = [&](int64_t row) { return ggml_new_tensor_3d(ctx, GGML_TYPE_F16, row, n_rows, s.streams); };
        const auto plane = [&](ggml_type type, int64_t size) { return ggml_new_tensor_2d(ctx, type, size, s.streams); };
        l.planes = {
            pages(n.k_row), pages(n.v_row),
            n.k_leads ? plane(GGML_TYPE_I32, n.k_code_stream) : layers.back().planes.k_codes,
            n.v_leads ? plane(GGML_TYPE_I32, n.v_code_stream) : layers.back().planes.v_codes,
            plane(GGML_TYPE_I8, n.meta_stream),
        };
        layers.push_back(l);
    }

    int page(int tile) const { return n_tiles - 1 - tile; }

    // The table of a step in which cells [first, end) of every stream are new and some tiles are sealed already.
    std::vector<int32_t> table(int first, int end, int sealed, const std::vector<int> & now) const {
        const int tokens = s.used*(end - first);
        std::vector<int32_t> t = {s.first, n_tiles, xq_table_seals_at(tokens, s.used, n_tiles), (int) now.size()*s.used, 0, 0, 0, 0};
        for (int i = 0; i < tokens; ++i) {
            t.push_back(first + i % (end - first));
        }
        for (int i = 0; i < s.used*n_tiles; ++i) {
            const int tile = i % n_tiles;
            // the last sealed tile has its page still, and the first query reads that
            t.push_back(tile + 1 < sealed ? -1 : page(tile));
            t.push_back(tile + 1 < sealed ? 0 : tile < sealed ? first + 1 : XQ_NOT_SEALED);
        }
        for (int u = 0; u < s.used; ++u) {
            for (const int tile : now) {
                for (const int32_t x : {s.first + u, tile, page(tile), tile ? -1 : 0x0FFFFFF7}) {
                    t.push_back(x);
                }
            }
        }
        return t;
    }

    // One micro-batch. Keys, values and queries are views into one tensor, the mask into a wider one.
    void step(int first, int end, int sealed, const std::vector<int> & now, bool attends) {
        const int tokens = s.used*(end - first), n_head = s.heads_kv*s.group, width = n_head*s.dk + s.heads_kv*(s.dk + s.dv) + 4;
        ggml_context * c = context();
        ggml_cgraph * gf = ggml_new_graph(c);
        ggml_tensor * rows = ggml_new_tensor_1d(c, GGML_TYPE_I64, tokens);
        const std::vector<int32_t> numbers = table(first, end, sealed, now);
        ggml_tensor * t = ggml_new_tensor_1d(c, GGML_TYPE_I32, (int64_t) numbers.size());
        ggml_tensor * wide = ggml_new_tensor_4d(c, GGML_TYPE_F16, s.n_kv + 6, end - first, 1, s.used);
        ggml_tensor * mask = ggml_view_4d(c, wide, s.n_kv, end - first, 1, s.used, wide->nb[1], wide->nb[2], wide->nb[3], 0);
        ggml_tensor * sinks = s.sinks ? ggml_new_tensor_1d(c, GGML_TYPE_F32, n_head) : nullptr;
        std::vector<ggml_tensor *> all;
        for (layer & l : layers) {
            ggml_tensor * qkv = ggml_new_tensor_2d(c, GGML_TYPE_F32, width, tokens);
            all.push_back(qkv);
            const auto part = [&](int64_t d, int64_t heads, int64_t at) {
                return ggml_view_3d(c, qkv, d, heads, tokens, d*sizeof(float), qkv->nb[1], at*sizeof(float));
            };
            ggml_tensor * q = part(s.dk, n_head, 4);
            ggml_tensor * k = part(s.dk, s.heads_kv, 4 + (int64_t) n_head*s.dk);
            ggml_tensor * v = part(s.dv, s.heads_kv, 4 + (int64_t) (n_head + s.heads_kv)*s.dk);
            xq_node_planes planes = l.planes;
            if (tokens <= 16) {
                planes.meta = xq_node_seal(c, XQ_NODE_STORE_AND_SEAL, l.node, planes, t, k, v, rows);
                ggml_build_forward_expand(gf, planes.meta);
            } else {
                for (const xq_node_kind kind : {XQ_NODE_STORE, XQ_NODE_SEAL}) {
                    planes.meta = xq_node_seal(c, kind, l.node, planes, t, k, v, rows);
                    ggml_build_forward_expand(gf, planes.meta);
                }
            }
            if (!attends) {
                continue;
            }
            const int chunks = (s.n_kv + 255)/256;
            for (const int parts : {1, chunks}) {
                ggml_tensor * cur = xq_node_attend(c, l.node, planes, t, q, mask, sinks, {1/std::sqrt((float) s.dk), s.softcap, s.max_bias}, parts);
                cur = parts > 1 ? xq_node_combine(c, l.node, cur, sinks) : cur;
                ggml_build_forward_expand(gf, cur);
                outputs.push_back(cur);
            }
        }
        ggml_backend_alloc_ctx_tensors(c, backend);

        const auto set = [](ggml_tensor * to, const auto & values) {
            if (to) {
                ggml_backend_tensor_set(to, values.data(), 0, ggml_nbytes(to));
            }
        };
        set(t, numbers);
        std::normal_distribution<float> normal;
        const auto normals = [&](int64_t n) {
            std::vector<float> x((size_t) n);
            for (float & f : x) {
                f = normal(rng);
            }
            return x;
        };
        for (ggml_tensor * qkv : all) {
            set(qkv, normals(ggml_nelements(qkv)));
        }
        set(sinks, normals(sinks ? n_head : 0));
        std::vector<int64_t> places;
        std::vector<ggml_fp16_t> seen;
        for (int i = 0; i < tokens; ++i) {
            const int u = i/(end - first), cell = first + i % (end - first);
            places.push_back((int64_t) (s.first + u)*n_rows + page(cell/XQ_TILE)*XQ_TILE + cell % XQ_TILE);
            for (int j = 0; j < s.n_kv + 6; ++j) {
                const float m = j > cell || (cell + j + u) % 7 == 0 ? -INFINITY : s.max_bias > 0 ? (float) (j - cell) : 0.0f;
                seen.push_back(ggml_fp32_to_fp16(m));
            }
        }
        set(rows, places);
        set(wide, seen);
        if (compute) {
            compute(gf);
        } else {
            CHECK(ggml_backend_graph_compute(backend, gf) == GGML_STATUS_SUCCESS);
        }
    }

    void run() {
        const int old = s.n_kv - s.tokens;
        std::vector<int> first_seals, seals;
        for (int t = 0; t < SEALED; ++t) {
            (t + 1 < SEALED ? first_seals : seals).push_back(t);
        }
        step(0, old, 0, first_seals, false);
        step(old, s.n_kv, SEALED, seals, true);
        const int filled = (SEALED + 1)*XQ_TILE; // a tile whose last cells come in the step that seals it
        step(filled - 3, filled, SEALED, {SEALED}, false);
    }
};

inline std::vector<uint8_t> bytes(const ggml_tensor * t) {
    std::vector<uint8_t> b(ggml_nbytes(t));
    ggml_backend_tensor_get(t, b.data(), 0, b.size());
    return b;
}

inline double nmse(const ggml_tensor * got, const ggml_tensor * want) {
    const std::vector<uint8_t> a = bytes(got), b = bytes(want);
    double error = 0, power = 0;
    for (int64_t i = 0; i < ggml_nelements(want); ++i) {
        const double g = ((const float *) a.data())[i], w = ((const float *) b.data())[i];
        error += (g - w)*(g - w);
        power += w*w;
    }
    return error/power;
}

// Runs a scenario in both worlds: the same bytes, outputs near each other.
inline void compare(world & cpu, world & device) {
    cpu.run();
    device.run();
    for (size_t il = 0; il < cpu.layers.size(); ++il) {
        const xq_node_planes & a = cpu.layers[il].planes, & b = device.layers[il].planes;
        CHECK(bytes(a.k_pages) == bytes(b.k_pages), il);
        CHECK(bytes(a.v_pages) == bytes(b.v_pages), il);
        CHECK(bytes(a.k_codes) == bytes(b.k_codes), il);
        CHECK(bytes(a.v_codes) == bytes(b.v_codes), il);
        // least squares are rounded differently by any two implementations
        const xq_node_layer & n = cpu.layers[il].node;
        const bool fitted = (!n.k_leads && n.k.fit == XQ_FIT_LS) || (!n.v_leads && n.v.fit == XQ_FIT_LS);
        CHECK(fitted || bytes(a.meta) == bytes(b.meta), il);
        const std::vector<uint8_t> codes = bytes(a.k_codes);
        CHECK(std::count(codes.begin(), codes.end(), 0) < (int64_t) codes.size(), "nothing was sealed");
    }
    CHECK(cpu.layers[1].node.k_leads == (std::string(cpu.s.config).find("share") == std::string::npos));
    for (size_t i = 0; i < cpu.outputs.size(); ++i) {
        // many rows are multiplied in f16 (attend_batch.h)
        const double error = nmse(device.outputs[i], cpu.outputs[i]), most = ggml_nrows(cpu.outputs[i]) < XQG_BATCH_FROM ? 1e-7 : 1e-6;
        CHECK(error < most, i, error);
    }
}
