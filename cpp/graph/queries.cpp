#include "graph/queries.h"

#include "ggml-cpp.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string>

namespace {

// With 128 the root mean square of a RoPE pair is right to 4 % for a single query head, better for groups; factors are
// powers of two.
constexpr int64_t PROBES = 128;
constexpr size_t MAX_NODES = 128;

bool is_view(const ggml_tensor * t) {
    return t->op == GGML_OP_VIEW || t->op == GGML_OP_RESHAPE || t->op == GGML_OP_PERMUTE || t->op == GGML_OP_TRANSPOSE;
}

bool is_weight(const ggml_tensor * t) {
    const ggml_tensor * root = t->view_src ? t->view_src : t;
    return root->op == GGML_OP_NONE && root->buffer && ggml_backend_buffer_get_usage(root->buffer) == GGML_BACKEND_BUFFER_USAGE_WEIGHTS;
}

bool is_norm(const ggml_tensor * t) {
    return t->op == GGML_OP_RMS_NORM || t->op == GGML_OP_NORM || t->op == GGML_OP_L2_NORM || t->op == GGML_OP_GROUP_NORM;
}

// Ops whose result depends on their sources and on nothing else, so that they can be run on their own.
bool is_pure(ggml_op op) {
    switch (op) {
        case GGML_OP_DUP: case GGML_OP_ADD: case GGML_OP_SUB: case GGML_OP_MUL: case GGML_OP_DIV: case GGML_OP_SQR:
        case GGML_OP_SQRT: case GGML_OP_SUM_ROWS: case GGML_OP_MEAN: case GGML_OP_REPEAT: case GGML_OP_CONCAT: case GGML_OP_MUL_MAT: case GGML_OP_SCALE:
        case GGML_OP_CPY: case GGML_OP_CONT: case GGML_OP_SOFT_MAX: case GGML_OP_ROPE: case GGML_OP_CLAMP: case GGML_OP_PAD:
        case GGML_OP_UNARY: case GGML_OP_GLU: case GGML_OP_LOG: case GGML_OP_SIN: case GGML_OP_COS:
            return true;
        default:
            return false;
    }
}

// One of two signs, by channel and number of the probe: the same bits for every cut into runs.
float sign_of(uint64_t probe, uint64_t channel) {
    uint64_t x = probe*0x9E3779B97F4A7C15u + channel + 1;
    x = (x ^ (x >> 30))*0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27))*0x94D049BB133111EBu;
    return (x ^ (x >> 31)) & 1 ? 1.0f : -1.0f;
}

// Copies the part of a graph that makes queries, in a context of its own.
class copier {
public:
    explicit copier(ggml_context * ctx) : ctx(ctx) {}

    ggml_tensor * query(const ggml_tensor * t) {
        ggml_tensor *& made = queries[t];
        if (made) {
            return made;
        }
        if (++n_nodes > MAX_NODES) {
            throw std::runtime_error("its queries are made in too many steps");
        }
        if (is_weight(t)) {
            return made = weight(t);
        }
        if (is_view(t)) {
            return made = view(t, query(t->src[0]));
        }
        if (t->op == GGML_OP_NONE) {
            return made = input(t);
        }
        if (is_norm(t)) {
            return made = signs(t);
        }
        if (!is_pure(t->op)) {
            throw std::runtime_error(std::string("its queries come from ") + ggml_op_name(t->op));
        }
        ggml_tensor * out = copy(t);
        const bool projects = t->op == GGML_OP_MUL_MAT && is_weight(t->src[0]);
        turns = turns || t->op == GGML_OP_ROPE;
        for (int i = 0; i < GGML_MAX_SRC && t->src[i]; ++i) {
            out->src[i] = projects && i == 1 ? normalised(t->src[i]) : query(t->src[i]);
        }
        return queries[t] = out;
    }

    std::vector<ggml_tensor *> noise, zeros, ones;
    bool turns = false; // has RoPE

private:
    // What a projection reads: gains and biases behind a norm as they are, and signs for all in front of these.
    ggml_tensor * normalised(const ggml_tensor * t) {
        ggml_tensor *& made = inputs[t];
        if (made) {
            return made;
        }
        if (++n_nodes > MAX_NODES) {
            throw std::runtime_error("its queries are made in too many steps");
        }
        if (is_view(t)) {
            return made = view(t, normalised(t->src[0]));
        }
        if ((t->op == GGML_OP_MUL || t->op == GGML_OP_ADD) && is_weight(t->src[1])) {
            ggml_tensor * out = copy(t);
            out->src[0] = normalised(t->src[0]);
            out->src[1] = weight(t->src[1]);
            return inputs[t] = out;
        }
        return made = signs(t);
    }

    ggml_tensor * signs(const ggml_tensor * t) {
        ggml_tensor * out = ggml_new_tensor(ctx, GGML_TYPE_F32, GGML_MAX_DIMS, t->ne);
        ggml_set_input(out);
        noise.push_back(out);
        return out;
    }

    ggml_tensor * copy(const ggml_tensor * t) {
        ggml_tensor * out = ggml_new_tensor(ctx, t->type, GGML_MAX_DIMS, t->ne);
        out->op = t->op;
        std::memcpy(out->op_params, t->op_params, sizeof(out->op_params));
        return out;
    }

    ggml_tensor * view(const ggml_tensor * t, ggml_tensor * of) {
        const size_t at = t->view_offs - (t->src[0]->view_src ? t->src[0]->view_offs : 0);
        ggml_tensor * out = ggml_view_4d(ctx, of, t->ne[0], t->ne[1], t->ne[2], t->ne[3], t->nb[1], t->nb[2], t->nb[3], at);
        std::copy(t->nb, t->nb + GGML_MAX_DIMS, out->nb);
        return out;
    }

    ggml_tensor * weight(const ggml_tensor * t) {
        ggml_tensor * root = const_cast<ggml_tensor *>(t->view_src ? t->view_src : t);
        if (root == t) {
            return root;
        }
        ggml_tensor * out = ggml_view_4d(ctx, root, t->ne[0], t->ne[1], t->ne[2], t->ne[3], t->nb[1], t->nb[2], t->nb[3], t->view_offs);
        std::copy(t->nb, t->nb + GGML_MAX_DIMS, out->nb);
        return out;
    }

    // Positions are 0, so RoPE turns nothing; factors (of long contexts) are 1.
    ggml_tensor * input(const ggml_tensor * t) {
        if (t->type != GGML_TYPE_I32 && t->type != GGML_TYPE_F32) {
            throw std::runtime_error(std::string("its queries depend on an input, ") + t->name);
        }
        ggml_tensor * out = ggml_new_tensor(ctx, t->type, GGML_MAX_DIMS, t->ne);
        ggml_set_input(out);
        (t->type == GGML_TYPE_I32 ? zeros : ones).push_back(out);
        return out;
    }

    ggml_context * ctx;
    std::map<const ggml_tensor *, ggml_tensor *> queries, inputs;
    size_t n_nodes = 0;
};

std::vector<int> themselves(int64_t n) {
    std::vector<int> of((size_t) n);
    std::iota(of.begin(), of.end(), 0);
    return of;
}

// The channel of a row that RoPE turns each channel into.
std::vector<int> partners(const ggml_tensor * t) {
    std::vector<int> of = themselves(t->ne[0]);
    if (t->op == GGML_OP_CONCAT && t->op_params[0] == 0) {
        const auto a = partners(t->src[0]), b = partners(t->src[1]);
        std::copy(a.begin(), a.end(), of.begin());
        std::transform(b.begin(), b.end(), of.begin() + (long) a.size(), [&](int c) { return c + (int) a.size(); });
    } else if (t->op == GGML_OP_ROPE) {
        const int n = t->op_params[1], mode = t->op_params[2], from = t->op_params[15];
        const bool halves = mode & (GGML_ROPE_TYPE_NEOX | GGML_ROPE_TYPE_MROPE);
        const int pairs = mode == GGML_ROPE_TYPE_VISION ? n : n/2, apart = halves ? pairs : 1;
        for (int i = 0; i < pairs; ++i) {
            const int c = from + (halves ? i : 2*i);
            of[c] = c + apart;
            of[c + apart] = c;
        }
    } else if (t->op != GGML_OP_MUL_MAT && t->src[0] && t->src[0]->ne[0] == t->ne[0]) {
        return partners(t->src[0]);
    }
    return of;
}

void fill(const std::vector<ggml_tensor *> & tensors, float value) {
    for (ggml_tensor * t : tensors) {
        std::vector<float> data((size_t) ggml_nelements(t), value); // 0 has the same bytes as an integer
        ggml_backend_tensor_set(t, data.data(), 0, ggml_nbytes(t));
    }
}

} // namespace

xq_query_sizes xq_measure_queries(ggml_backend_sched_t sched, ggml_tensor * q) {
    const int64_t dk = q->ne[0], n_head = q->ne[1], n_tokens = q->ne[2];
    const size_t most = 4*MAX_NODES;
    ggml_context_ptr ctx(ggml_init({most*ggml_tensor_overhead() + ggml_graph_overhead_custom(most, false), nullptr, true}));
    copier graph(ctx.get());
    ggml_tensor * out = ggml_cast(ctx.get(), ggml_cont(ctx.get(), graph.query(q)), GGML_TYPE_F32);
    if (graph.noise.empty()) {
        throw std::runtime_error("its queries have neither norm nor projection");
    }
    xq_query_sizes sizes{std::vector<double>((size_t) (n_head*dk), 0.0), partners(q)};
    if (graph.turns && sizes.partner == themselves(dk)) {
        throw std::runtime_error("its queries are turned by RoPE in channels that are not found");
    }
    ggml_set_output(out);
    ggml_cgraph * gf = ggml_new_graph_custom(ctx.get(), most, false);
    ggml_build_forward_expand(gf, out);

    std::vector<ggml_backend_t> backends;
    for (int i = 0; i < ggml_backend_sched_get_n_backends(sched); ++i) {
        backends.push_back(ggml_backend_sched_get_backend(sched, i));
    }
    ggml_backend_sched_ptr own(ggml_backend_sched_new(backends.data(), nullptr, (int) backends.size(), most, false, false));
    if (!own || !ggml_backend_sched_alloc_graph(own.get(), gf)) {
        throw std::runtime_error("there is no memory to run its query projection");
    }
    std::vector<float> row((size_t) (dk*n_head*n_tokens));
    for (int64_t first = 0; first < PROBES; first += n_tokens) {
        fill(graph.zeros, 0.0f);
        fill(graph.ones, 1.0f);
        for (ggml_tensor * t : graph.noise) {
            std::vector<float> data((size_t) ggml_nelements(t));
            const size_t width = data.size()/(size_t) n_tokens; // channels of a token, in one dimension or in two
            for (size_t i = 0; i < data.size(); ++i) {
                data[i] = sign_of((uint64_t) first + i/width, i%width);
            }
            ggml_backend_tensor_set(t, data.data(), 0, ggml_nbytes(t));
        }
        if (ggml_backend_sched_graph_compute(own.get(), gf) != GGML_STATUS_SUCCESS) {
            throw std::runtime_error("its query projection could not be run");
        }
        ggml_backend_tensor_get(out, row.data(), 0, ggml_nbytes(out));
        const int64_t probes = std::min(n_tokens, PROBES - first);
        for (int64_t i = 0; i < probes*n_head*dk; ++i) {
            sizes.squares[(size_t) (i % (n_head*dk))] += (double) row[(size_t) i]*row[(size_t) i]/PROBES;
        }
    }
    return sizes;
}
