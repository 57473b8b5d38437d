#include "graph/one_pass.h"

#include "cache/convert.h"
#include "cache/plan.h"
#include "format/xq_table.h"
#include "graph/changed_attention.h"
#include "graph/node.h"

#include "ggml-cpp.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

namespace {

const ggml_tensor * root(const ggml_tensor * t) { return t->view_src ? t->view_src : t; }

bool is_view(const ggml_tensor * t) {
    return t->op == GGML_OP_VIEW || t->op == GGML_OP_RESHAPE || t->op == GGML_OP_PERMUTE || t->op == GGML_OP_TRANSPOSE;
}

bool is_weight(const ggml_tensor * t) {
    return root(t)->buffer && ggml_backend_buffer_get_usage(root(t)->buffer) == GGML_BACKEND_BUFFER_USAGE_WEIGHTS;
}

std::vector<float> read(const ggml_tensor * t) {
    if (t->type != GGML_TYPE_F32 || !ggml_is_contiguous(t)) {
        throw std::runtime_error(std::string("behind its attention there is a tensor of another layout, ") + t->name);
    }
    std::vector<float> data((size_t) ggml_nelements(t));
    ggml_backend_tensor_get(t, data.data(), 0, ggml_nbytes(t));
    return data;
}

// f(element of one token's row, element of `of`) for every element of `like`, over which `of` is repeated.
template <class F> void repeated(const ggml_tensor * like, const ggml_tensor * of, F && f) {
    int64_t i = 0;
    for (int64_t c = 0; c < like->ne[3]; ++c) {
        for (int64_t b = 0; b < like->ne[2]; ++b) {
            for (int64_t a = 0; a < like->ne[1]; ++a) {
                const int64_t row = ((c % of->ne[3]*of->ne[2] + b % of->ne[2])*of->ne[1] + a % of->ne[1])*of->ne[0];
                for (int64_t x = 0; x < like->ne[0]; ++x) {
                    f(i++, row + x % of->ne[0]);
                }
            }
        }
    }
}

} // namespace

xq_one_pass::xq_one_pass(const xq_config & config, std::vector<double> k_bits, std::vector<int> v_bits)
    : config(config), k_bits(std::move(k_bits)), v_bits(std::move(v_bits)) {}

bool xq_one_pass::see(ggml_tensor * t, bool ask, void * self) {
    xq_one_pass & p = *(xq_one_pass *) self;
    try {
        xq_node node;
        const bool attends = xq_node_read(t, node) && node.kind == XQ_NODE_ATTEND;
        if (ask) {
            if (p.il >= 0) {
                p.follow(t);
            }
            return attends || p.il >= 0; // while a layer is followed every node, so that what it reads is there when asked
        }
        if (attends) {
            const char * dash = std::strrchr(t->name, '-');
            p.il = dash ? (int) std::strtol(dash + 1, nullptr, 10) : -1;
            p.begin(t);
        } else if (p.il >= 0 && p.at == root(t)) {
            p.arrive(t);
        }
    } catch (const std::exception & e) {
        p.found[p.il].why_none = e.what();
        p.il = -1;
    }
    return true;
}

const std::map<int, xq_layer_cost> & xq_one_pass::costs() {
    if (il >= 0) {
        finish();
    }
    return found;
}

void xq_one_pass::begin(const ggml_tensor * attend) {
    xq_node node;
    xq_node_read(attend, node);
    at = attend;
    at_sum = false;
    heads_apart = false;
    sum = {};
    const ggml_tensor * q = attend->src[XQ_A_Q];
    xq_changed changed = xq_changed_attention(main, config, *node.layer, attend, k_bits, v_bits);
    now.rows = std::move(changed.rows);
    now.counts = std::move(changed.counts);
    now.tokens = q->ne[2];
    now.size = q->ne[1]*node.layer->dv;
}

void xq_one_pass::follow(ggml_tensor * t) {
    int side = -1;
    for (int i = 0; i < GGML_MAX_SRC; ++i) {
        if (t->src[i] && root(t->src[i]) == at) {
            side = i;
            break;
        }
    }
    if (side < 0 || is_view(t)) {
        return;
    }
    const ggml_tensor * from = t->src[side], * other = side < 2 ? t->src[1 - side] : nullptr;
    const bool adds = t->op == GGML_OP_ADD && other && !is_weight(other);
    if (at_sum && !adds) {
        finish();
        return;
    }
    if (project_heads(t, from)) {
        at = root(t);
        return;
    }
    const bool combines = t->op == GGML_OP_CUSTOM;
    if (!combines && (ggml_nelements(from) != now.size*now.tokens || !ggml_is_contiguous(from))) {
        throw std::runtime_error(std::string("only a part of its attention's output goes into ") + t->name);
    }
    const size_t rows = now.rows.size()/(size_t) now.size, one = (size_t) (now.size*now.tokens);
    switch (t->op) {
        case GGML_OP_CUSTOM: { // partial results to rows
            xq_node node;
            if (!xq_node_read(t, node) || node.kind != XQ_NODE_COMBINE) {
                throw std::runtime_error(std::string("behind its attention there is a custom operation, ") + t->name);
            }
            break;
        }
        case GGML_OP_ADD: case GGML_OP_SUB: case GGML_OP_CONT: case GGML_OP_CPY: case GGML_OP_DUP:
            if (ggml_nelements(t) != (int64_t) one || (t->op == GGML_OP_SUB && side == 1)) {
                throw std::runtime_error(std::string("behind its attention there is an operation that is not followed, ") + t->name);
            }
            break;
        case GGML_OP_SCALE: {
            float by;
            std::memcpy(&by, t->op_params, sizeof(by));
            std::transform(now.rows.begin(), now.rows.end(), now.rows.begin(), [by](float x) { return by*x; });
            break;
        }
        case GGML_OP_MUL: {
            const std::vector<float> by = read(other);
            if (!ggml_can_repeat(other, from) || ggml_nelements(t) != (int64_t) one) {
                throw std::runtime_error(std::string("its attention's output is multiplied in another shape, ") + t->name);
            }
            for (size_t w = 0; w < n_widths(); ++w) {
                float * x = now.rows.data() + w*one;
                repeated(from, other, [&](int64_t i, int64_t j) { x[i] *= by[(size_t) j]; });
            }
            break;
        }
        case GGML_OP_RMS_NORM: { // y = u/rms(u): the change along u goes, the rest is divided
            const std::vector<float> u = read(from);
            const size_t n = (size_t) from->ne[0];
            float eps;
            std::memcpy(&eps, t->op_params, sizeof(eps));
            for (size_t r = 0; r < one/n; ++r) {
                double squares = 0;
                for (size_t i = 0; i < n; ++i) {
                    squares += (double) u[r*n + i]*u[r*n + i];
                }
                const double scale = 1/std::sqrt(squares/n + eps);
                for (size_t w = 0; w < n_widths(); ++w) {
                    float * x = now.rows.data() + w*one + r*n;
                    double along = 0;
                    for (size_t i = 0; i < n; ++i) {
                        along += (double) x[i]*u[r*n + i];
                    }
                    along /= squares + n*eps;
                    for (size_t i = 0; i < n; ++i) {
                        x[i] = (float) (scale*(x[i] - along*u[r*n + i]));
                    }
                }
            }
            break;
        }
        case GGML_OP_GET_ROWS: {
            if (side != 0 || from->ne[0] != now.size || other->type != GGML_TYPE_I32) {
                throw std::runtime_error(std::string("rows of its attention's output are picked in another shape, ") + t->name);
            }
            std::vector<int32_t> ids((size_t) ggml_nelements(other));
            ggml_backend_tensor_get(other, ids.data(), 0, ids.size()*sizeof(ids[0]));
            change few;
            few.size = now.size;
            few.tokens = (int64_t) ids.size();
            for (size_t w = 0; w < n_widths(); ++w) {
                for (int32_t id : ids) {
                    const float * x = now.rows.data() + w*one + (size_t) (id*now.size);
                    few.rows.insert(few.rows.end(), x, x + now.size);
                }
            }
            for (int32_t id : ids) {
                few.counts.push_back(now.counts[(size_t) id]);
            }
            now = std::move(few);
            break;
        }
        case GGML_OP_MUL_MAT:
            if (side != 1 || !is_weight(t->src[0]) || t->src[0]->ne[0] != now.size || rows*t->src[0]->ne[1] == 0) {
                throw std::runtime_error(std::string("its attention's output is projected in another way, ") + t->name);
            }
            project(t->src[0]);
            break;
        default:
            throw std::runtime_error(std::string("behind its attention there is ") + ggml_op_name(t->op));
    }
    at = root(t);
    at_sum = adds;
}

// The residual stream, or a sum on the way to it (attention and feed-forward side by side): the last one counts.
void xq_one_pass::arrive(const ggml_tensor * t) {
    if (!at_sum) {
        return;
    }
    const std::vector<float> stream = read(t);
    const size_t one = (size_t) (now.size*now.tokens);
    const auto energy = [&](const float * x) {
        double all = 0;
        for (size_t i = 0; i < one; ++i) {
            all += now.counts[i/(size_t) now.size] ? (double) x[i]*x[i] : 0.0;
        }
        return all;
    };
    sum = {};
    sum.stream = energy(stream.data());
    for (size_t w = 0; w < n_widths(); ++w) {
        (w < k_bits.size() ? sum.k : sum.v).push_back(energy(now.rows.data() + w*one));
    }
}

void xq_one_pass::finish() {
    xq_layer_cost & all = found[il];
    if (!at_sum) {
        all.why_none = "its attention's output does not reach the residual stream";
    } else if (all.k.empty()) {
        all = sum;
    } else {
        const auto add = [](std::vector<double> & to, const std::vector<double> & from) {
            std::transform(to.begin(), to.end(), from.begin(), to.begin(), std::plus<double>());
        };
        add(all.k, sum.k);
        add(all.v, sum.v);
        all.stream += sum.stream;
    }
    il = -1;
}

bool xq_one_pass::project_heads(const ggml_tensor * t, const ggml_tensor * from) {
    if (heads_apart) { // put together again
        heads_apart = false;
        return t->op == GGML_OP_CONT && from->ne[0]*from->ne[1] == now.size && from->ne[2] == now.tokens &&
               from->nb[1] > from->nb[2];
    }
    ggml_tensor * weight = t->src[0];
    const int64_t n_head = from->ne[2];
    if (t->op != GGML_OP_MUL_MAT || from != t->src[1] || !is_weight(weight) || weight->ne[2] != n_head || n_head < 2 ||
        from->ne[0]*n_head != now.size || from->ne[1] != now.tokens || from->nb[2] != from->ne[0]*sizeof(float)) {
        return false;
    }
    xq_own_graph graph;
    ggml_context * ctx = graph.ctx();
    ggml_tensor * x = graph.input(now.rows, {from->ne[0], n_head, (int64_t) now.rows.size()/now.size});
    x = ggml_mul_mat(ctx, weight, ggml_permute(ctx, x, 0, 2, 1, 3));
    ggml_tensor * y = graph.output(ggml_cont(ctx, ggml_permute(ctx, x, 0, 2, 1, 3)));
    graph.run(main);
    now.rows = graph.result(y);
    now.size = weight->ne[1]*n_head;
    heads_apart = true;
    return true;
}

void xq_one_pass::project(ggml_tensor * weight) {
    const int64_t n = (int64_t) now.rows.size()/now.size;
    xq_own_graph graph;
    ggml_tensor * x = graph.input(now.rows, {now.size, n});
    ggml_tensor * y = graph.output(ggml_mul_mat(graph.ctx(), weight, x));
    graph.run(main);
    now.rows = graph.result(y);
    now.size = weight->ne[1];
}
