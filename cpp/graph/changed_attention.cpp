#include "graph/changed_attention.h"

#include "cache/convert.h"
#include "cache/plan.h"
#include "format/xq_table.h"
#include "kernels/cpu/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

namespace {

constexpr size_t MOST_NODES = 512;

template <class T> std::vector<T> bytes_of(const ggml_tensor * t) {
    std::vector<T> data(ggml_nbytes(t)/sizeof(T));
    ggml_backend_tensor_get(t, data.data(), 0, data.size()*sizeof(T));
    return data;
}

// Keys [dk, cells, heads] and values [cells, dv, heads] of a layer, as attention's products take them.
struct sides {
    std::vector<float> k, v;
};

class layer_rows {
public:
    layer_rows(const xq_node_layer & layer, const ggml_tensor * attend) : layer(layer) {
        const ggml_tensor * mask = attend->src[XQ_A_MASK];
        n_kv = (int) mask->ne[0];
        n_tokens = (int) mask->ne[1];
        table = bytes_of<int32_t>(attend->src[XQ_A_TABLE]);
        const auto k = bytes_of<uint16_t>(attend->src[XQ_A_K_PAGES]), v = bytes_of<uint16_t>(attend->src[XQ_A_V_PAGES]);
        const size_t nk = (size_t) layer.n_head_kv*layer.dk, nv = (size_t) layer.n_head_kv*layer.dv;
        for (int t = 0; t < n_kv/XQ_TILE; ++t) {
            tiles.push_back(xq_empty_rows(layer));
            const int page = table[(size_t) (xq_table_tiles_at(n_tokens) + t*XQ_TILE_INTS)];
            if (page >= 0) {
                std::copy_n(&k[(size_t) page*XQ_TILE*nk], XQ_TILE*nk, tiles.back().k.begin());
                std::copy_n(&v[(size_t) page*XQ_TILE*nv], XQ_TILE*nv, tiles.back().v.begin());
            }
        }
    }

    int position(int token) const { return table[(size_t) (XQ_TABLE_HEAD + token)]; }

    sides exact() const { return spread(tiles); }

    sides read_back(const xq_side & k, const xq_side & v) const {
        xq_node_layer as = layer;
        as.k = k;
        as.v = v;
        as.k_leads = as.v_leads = 1;
        std::vector<xq_tile_rows> back;
        for (const xq_tile_rows & rows : tiles) {
            xq_tile_codes codes = xq_empty_codes(as);
            xq_seal_rows(as, rows, 0xffffffffu, codes);
            back.push_back(xq_read_back(as, codes));
        }
        return spread(back);
    }

private:
    sides spread(const std::vector<xq_tile_rows> & of) const {
        const int heads = layer.n_head_kv, dk = layer.dk, dv = layer.dv;
        sides s{std::vector<float>((size_t) dk*n_kv*heads), std::vector<float>((size_t) dv*n_kv*heads)};
        float row[XQ_MAX_HEAD_DIM];
        for (int cell = 0; cell < n_kv; ++cell) {
            const xq_tile_rows & tile = of[(size_t) (cell/XQ_TILE)];
            for (int h = 0; h < heads; ++h) {
                const size_t at = (size_t) (cell % XQ_TILE)*heads + h;
                ggml_fp16_to_fp32_row(&tile.k[at*dk], &s.k[((size_t) h*n_kv + cell)*dk], dk);
                ggml_fp16_to_fp32_row(&tile.v[at*dv], row, dv);
                if (layer.v.rot) {
                    xq_cpu().rotate(row, dv, layer.v.rot);
                }
                for (int c = 0; c < dv; ++c) {
                    s.v[((size_t) h*dv + c)*n_kv + cell] = row[c];
                }
            }
        }
        return s;
    }

    const xq_node_layer & layer;
    int n_kv, n_tokens;
    std::vector<int32_t> table;
    std::vector<xq_tile_rows> tiles;
};

std::vector<float> minus(std::vector<float> a, const std::vector<float> & b) {
    std::transform(a.begin(), a.end(), b.begin(), a.begin(), [](float x, float y) { return std::isfinite(x - y) ? x - y : 0.0f; });
    return a;
}

} // namespace

xq_own_graph::xq_own_graph()
    : context(ggml_init({MOST_NODES*ggml_tensor_overhead() + ggml_graph_overhead_custom(MOST_NODES, false), nullptr, true})),
      graph(ggml_new_graph_custom(context.get(), MOST_NODES, false)) {}

ggml_tensor * xq_own_graph::input(std::vector<float> data, std::initializer_list<int64_t> ne) {
    ggml_tensor * t = ggml_new_tensor(context.get(), GGML_TYPE_F32, (int) ne.size(), ne.begin());
    ggml_set_input(t);
    inputs.emplace_back(t, std::move(data));
    return t;
}

ggml_tensor * xq_own_graph::output(ggml_tensor * t) {
    ggml_set_output(t);
    ggml_build_forward_expand(graph, t);
    return t;
}

void xq_own_graph::run(ggml_backend_sched_t beside) {
    std::vector<ggml_backend_t> backends;
    for (int i = 0; i < ggml_backend_sched_get_n_backends(beside); ++i) {
        backends.push_back(ggml_backend_sched_get_backend(beside, i));
    }
    sched.reset(ggml_backend_sched_new(backends.data(), nullptr, (int) backends.size(), MOST_NODES, false, false));
    if (!sched || !ggml_backend_sched_alloc_graph(sched.get(), graph)) {
        throw std::runtime_error("there is no memory to do its attention again");
    }
    for (const auto & [t, data] : inputs) {
        if (t->buffer) { // it is used
            ggml_backend_tensor_set(t, data.data(), 0, data.size()*sizeof(float));
        }
    }
    if (ggml_backend_sched_graph_compute(sched.get(), graph) != GGML_STATUS_SUCCESS) {
        throw std::runtime_error("its attention could not be done again");
    }
}

std::vector<float> xq_own_graph::result(const ggml_tensor * t) const { return bytes_of<float>(t); }

xq_changed xq_changed_attention(ggml_backend_sched_t beside, const xq_config & config, const xq_node_layer & layer,
                                const ggml_tensor * attend, const std::vector<double> & k_bits, const std::vector<int> & v_bits) {
    xq_node node;
    const ggml_tensor * q = attend->src[XQ_A_Q], * mask = attend->src[XQ_A_MASK], * sinks = attend->src[XQ_A_SINKS];
    if (!xq_node_read(attend, node) || mask->ne[3] != 1) {
        throw std::runtime_error("its attention has several streams");
    }
    const int64_t n_kv = mask->ne[0], n = q->ne[2], n_head = q->ne[1], heads = layer.n_head_kv, dk = layer.dk, dv = layer.dv;
    const layer_rows rows(layer, attend);
    const sides exact = rows.exact();

    xq_changed found;
    std::vector<float> sees((size_t) (n_kv*n)), packed((size_t) (n_kv*n), 0.0f);
    const std::vector<uint16_t> f16 = bytes_of<uint16_t>(mask);
    for (int64_t t = 0; t < n; ++t) {
        bool any = false;
        for (int64_t c = 0; c < n_kv; ++c) {
            const size_t i = (size_t) (t*n_kv + c);
            sees[i] = ggml_fp16_to_fp32(f16[i]);
            // Cells are positions: the cache is fresh. `from` of a tile is its newest position + window; tiles with sinks stay.
            const int64_t first = c/XQ_TILE*XQ_TILE;
            if (first >= config.sink && rows.position((int) t) >= first + XQ_TILE - 1 + config.window) {
                packed[i] = 1.0f;
                any = true;
            }
        }
        found.counts.push_back(any);
    }
    std::vector<float> queries((size_t) (dk*n_head*n));
    {
        const std::vector<float> data = bytes_of<float>(q);
        for (int64_t t = 0; t < n; ++t) {
            for (int64_t h = 0; h < n_head; ++h) {
                std::copy_n(&data[(size_t) (h*q->nb[1] + t*q->nb[2])/sizeof(float)], dk, &queries[(size_t) ((h*n + t)*dk)]);
            }
        }
    }

    xq_own_graph graph;
    ggml_context * ctx = graph.ctx();
    ggml_tensor * Q = graph.input(std::move(queries), {dk, n, n_head});
    ggml_tensor * M = graph.input(std::move(sees), {n_kv, n});
    ggml_tensor * old = graph.input(std::move(packed), {n_kv, n});
    ggml_tensor * V = graph.input(exact.v, {n_kv, dv, heads});
    ggml_tensor * S = ggml_mul_mat(ctx, graph.input(exact.k, {dk, n_kv, heads}), Q);
    ggml_tensor * sink = sinks ? graph.input(bytes_of<float>(sinks), {n_head}) : nullptr;
    const auto weights = [&](ggml_tensor * scores) {
        float scale = node.scale;
        if (node.softcap != 0) {
            scores = ggml_scale(ctx, ggml_tanh(ctx, ggml_scale(ctx, scores, scale/node.softcap)), node.softcap);
            scale = 1;
        }
        ggml_tensor * p = ggml_soft_max_ext(ctx, scores, M, scale, node.max_bias);
        if (sink) {
            ggml_soft_max_add_sinks(p, sink);
        }
        return p;
    };
    ggml_tensor * P = weights(S), * P_old = ggml_mul(ctx, P, old);
    std::vector<ggml_tensor *> out;
    const auto give = [&](ggml_tensor * o) { // [dv, n, n_head] to rows of tokens
        out.push_back(graph.output(ggml_cont(ctx, ggml_permute(ctx, o, 0, 2, 1, 3))));
    };
    std::vector<ggml_tensor *> values;
    for (size_t i = 0; i < std::max(k_bits.size(), v_bits.size()); ++i) {
        const sides back = rows.read_back(xq_key_side(config, k_bits[std::min(i, k_bits.size() - 1)], layer.dk, false),
                                          xq_value_side(config, v_bits[std::min(i, v_bits.size() - 1)], layer.dv, false));
        if (i < k_bits.size()) {
            ggml_tensor * error = ggml_mul_mat(ctx, graph.input(minus(back.k, exact.k), {dk, n_kv, heads}), Q);
            give(ggml_mul_mat(ctx, V, ggml_sub(ctx, weights(ggml_add(ctx, S, ggml_mul(ctx, error, old))), P)));
        }
        if (i < v_bits.size()) {
            values.push_back(ggml_mul_mat(ctx, graph.input(minus(back.v, exact.v), {n_kv, dv, heads}), P_old));
        }
    }
    std::for_each(values.begin(), values.end(), give);
    graph.run(beside);
    for (const ggml_tensor * t : out) {
        const std::vector<float> part = graph.result(t);
        found.rows.insert(found.rows.end(), part.begin(), part.end());
    }
    return found;
}
