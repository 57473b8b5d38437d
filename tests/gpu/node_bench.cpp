// node_bench DEVICE WHAT [key=value ...]: times packed nodes on a device of ggml, beside those of upstream's own caches. Every
// layer has planes of its own, so memory is as cold as in a model. One line of JSON for each figure.
//   copy                 bytes a second that a copy reads and writes
//   packed               store and seal while the cache is filled, then attention of 1 token, and of `tokens`
//   f16, q8_0, q4_0      flash attention over a cache of that type
#include "nodes_world.h"

#include <chrono>
#include <cstdlib>
#include <map>

namespace {

using clock_type = std::chrono::steady_clock;

struct options {
    std::map<std::string, std::string> given;
    int number(const char * key, int otherwise) const {
        const auto at = given.find(key);
        return at == given.end() ? otherwise : std::atoi(at->second.c_str());
    }
    std::string text(const char * key) const {
        const auto at = given.find(key);
        return at == given.end() ? "" : at->second;
    }
};

std::vector<float> normals(size_t n) {
    std::mt19937 rng{7};
    std::normal_distribution<float> normal;
    std::vector<float> some(std::min<size_t>(n, 1 << 16)), all(n);
    for (float & x : some) {
        x = normal(rng);
    }
    for (size_t i = 0; i < n; ++i) {
        all[i] = some[i % some.size()]*(1 + 0.5f*(float) (i/some.size() % 3));
    }
    return all;
}

// Median seconds of a graph, after two runs that are not timed: the second one is where a backend may capture it.
double median(ggml_backend_t backend, ggml_cgraph * gf, int rounds) {
    std::vector<double> seconds;
    for (int i = -2; i < rounds; ++i) {
        ggml_backend_synchronize(backend);
        const auto start = clock_type::now();
        CHECK(ggml_backend_graph_compute(backend, gf) == GGML_STATUS_SUCCESS);
        ggml_backend_synchronize(backend);
        const std::chrono::duration<double> took = clock_type::now() - start;
        if (i >= 0) {
            seconds.push_back(took.count());
        }
    }
    std::sort(seconds.begin(), seconds.end());
    return seconds[seconds.size()/2];
}

void say(const char * what, int rows, double us, double bytes) {
    std::printf("{\"what\": \"%s\", \"rows\": %d, \"us\": %.3f, \"bytes\": %.0f, \"gb_s\": %.1f}\n", what, rows, us, bytes, bytes/us/1e3);
    std::fflush(stdout);
}

struct scratch { // tensors of one graph, freed with it
    ggml_context * c;
    ggml_backend_buffer_t buffer = nullptr;
    explicit scratch(int tensors) : c(ggml_init({tensors*ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true})) {}
    ~scratch() {
        ggml_backend_buffer_free(buffer);
        ggml_free(c);
    }
    void alloc(ggml_backend_t backend) {
        buffer = ggml_backend_alloc_ctx_tensors(c, backend);
        if (!buffer) {
            std::printf("the device has no room for it\n");
            std::exit(1);
        }
    }
};

template <class T> void set(ggml_tensor * to, const std::vector<T> & values) { ggml_backend_tensor_set(to, values.data(), 0, ggml_nbytes(to)); }

void copy(ggml_backend_t backend, const options & o) {
    const int64_t n = (int64_t) o.number("mib", 1024)*1024*1024/4;
    scratch m(8);
    ggml_tensor * from = ggml_new_tensor_1d(m.c, GGML_TYPE_F32, n), * to = ggml_new_tensor_1d(m.c, GGML_TYPE_F32, n);
    ggml_cgraph * gf = ggml_new_graph(m.c);
    ggml_build_forward_expand(gf, ggml_cpy(m.c, from, to));
    m.alloc(backend);
    ggml_backend_buffer_clear(m.buffer, 1);
    say("copy", 0, 1e6*median(backend, gf, o.number("rounds", 5)), 8.0*(double) n);
}

// Tokens attend to everything before them; what is masked is in the newest cells alone.
std::vector<ggml_fp16_t> causal(int n_kv, int tokens) {
    const ggml_fp16_t seen = ggml_fp32_to_fp16(0.0f), hidden = ggml_fp32_to_fp16(-INFINITY);
    std::vector<ggml_fp16_t> mask((size_t) n_kv*tokens, seen);
    for (int i = 0; i < tokens; ++i) {
        for (int j = n_kv - tokens + i + 1; j < n_kv; ++j) {
            mask[(size_t) i*n_kv + j] = hidden;
        }
    }
    return mask;
}

// Tokens of the micro-batches to time.
std::vector<int> queries(const options & o, const scenario & s) {
    std::vector<int> counts = {1};
    for (const int more : {o.number("few", 0), s.tokens}) {
        if (more > 1) {
            counts.push_back(more);
        }
    }
    return counts;
}

// What one query reads of a layer: codes and metadata of all tiles but the newest, whose rows it reads.
double bytes_read(const world & w, const layer & l, int paged) {
    const double a_tile = 4.0*(l.node.k_code_stream + l.node.v_code_stream) + l.node.meta_stream;
    const double a_page = 2.0*XQ_TILE*(l.node.k_row + l.node.v_row);
    return a_tile/w.n_tiles*(w.n_tiles - paged) + a_page*paged;
}

void packed(ggml_backend_t backend, const options & o, const scenario & s, int n_layers) {
    constexpr int PAGED = 4; // tiles of the window
    world w(s, backend, nullptr, n_layers);
    const int step = std::min(512, s.n_kv), rounds = o.number("rounds", 10), n_head = s.heads_kv*s.group;
    double filling = 0; // but for the first slice, which may compile kernels
    for (int first = 0; first < s.n_kv; first += step) { // every slice is sealed as it comes, but for the window
        const int end = std::min(first + step, s.n_kv), tokens = end - first;
        std::vector<int> now;
        for (int t = first/XQ_TILE; t < end/XQ_TILE && t < w.n_tiles - PAGED; ++t) {
            now.push_back(t);
        }
        scratch m(16 + 8*n_layers);
        ggml_cgraph * gf = ggml_new_graph(m.c);
        ggml_tensor * k = ggml_new_tensor_3d(m.c, GGML_TYPE_F32, s.dk, s.heads_kv, tokens);
        ggml_tensor * v = ggml_new_tensor_3d(m.c, GGML_TYPE_F32, s.dv, s.heads_kv, tokens);
        ggml_tensor * rows = ggml_new_tensor_1d(m.c, GGML_TYPE_I64, tokens);
        const std::vector<int32_t> numbers = w.table(first, end, first/XQ_TILE, now);
        ggml_tensor * t = ggml_new_tensor_1d(m.c, GGML_TYPE_I32, (int64_t) numbers.size());
        for (const layer & l : w.layers) {
            xq_node_planes planes = l.planes;
            for (const xq_node_kind kind : {XQ_NODE_STORE, XQ_NODE_SEAL}) {
                planes.meta = xq_node_seal(m.c, kind, l.node, planes, t, k, v, rows);
                ggml_build_forward_expand(gf, planes.meta);
            }
        }
        m.alloc(backend);
        std::vector<int64_t> places;
        for (int cell = first; cell < end; ++cell) {
            places.push_back((int64_t) w.page(cell/XQ_TILE)*XQ_TILE + cell % XQ_TILE);
        }
        set(t, numbers);
        set(rows, places);
        set(k, normals((size_t) ggml_nelements(k)));
        set(v, normals((size_t) ggml_nelements(v)));
        const auto start = clock_type::now();
        CHECK(ggml_backend_graph_compute(backend, gf) == GGML_STATUS_SUCCESS);
        ggml_backend_synchronize(backend);
        const std::chrono::duration<double> took = clock_type::now() - start;
        filling += first || s.n_kv == step ? took.count() : 0;
    }
    const int timed = s.n_kv == step ? step : s.n_kv - step;
    say("store and seal, a token", 0, 1e6*filling/n_layers/timed, 2.0*(w.layers[0].node.k_row + w.layers[0].node.v_row));
    for (const int tokens : queries(o, s)) {
        scratch m(16 + 8*n_layers);
        ggml_cgraph * gf = ggml_new_graph(m.c);
        const int first = s.n_kv - tokens;
        std::vector<int32_t> numbers = w.table(first, s.n_kv, 0, {});
        for (int tile = 0; tile + PAGED < w.n_tiles; ++tile) {
            int32_t * of = &numbers[(size_t) xq_table_tiles_at(tokens) + (size_t) tile*XQ_TILE_INTS];
            of[0] = -1;
            of[1] = 0;
        }
        ggml_tensor * t = ggml_new_tensor_1d(m.c, GGML_TYPE_I32, (int64_t) numbers.size());
        ggml_tensor * q = ggml_new_tensor_3d(m.c, GGML_TYPE_F32, s.dk, n_head, tokens);
        ggml_tensor * mask = ggml_new_tensor_4d(m.c, GGML_TYPE_F16, s.n_kv, tokens, 1, 1);
        for (const layer & l : w.layers) {
            const xq_attend_params params = {1/std::sqrt((float) s.dk), s.softcap, s.max_bias};
            ggml_build_forward_expand(gf, xq_node_attend(m.c, l.node, l.planes, t, q, mask, nullptr, params, 1));
        }
        m.alloc(backend);
        set(t, numbers);
        set(q, normals((size_t) ggml_nelements(q)));
        set(mask, causal(s.n_kv, tokens));
        say("attend", tokens*s.group, 1e6*median(backend, gf, rounds)/n_layers, bytes_read(w, w.layers[0], PAGED));
    }
}

void stock(ggml_backend_t backend, const options & o, const scenario & s, int n_layers, ggml_type type) {
    for (const int tokens : queries(o, s)) {
        scratch m(16 + 8*n_layers);
        ggml_cgraph * gf = ggml_new_graph(m.c);
        ggml_tensor * q = ggml_new_tensor_4d(m.c, GGML_TYPE_F32, s.dk, tokens, s.heads_kv*s.group, 1);
        ggml_tensor * mask = ggml_new_tensor_4d(m.c, GGML_TYPE_F16, s.n_kv, tokens, 1, 1);
        std::vector<ggml_tensor *> cache;
        for (int il = 0; il < n_layers; ++il) { // as llama.cpp keeps them: all heads of a token side by side
            for (const int d : {s.dk, s.dv}) {
                cache.push_back(ggml_new_tensor_3d(m.c, type, d, s.heads_kv, s.n_kv));
            }
            ggml_tensor * k = ggml_permute(m.c, cache[cache.size() - 2], 0, 2, 1, 3), * v = ggml_permute(m.c, cache.back(), 0, 2, 1, 3);
            ggml_tensor * cur = ggml_flash_attn_ext(m.c, q, k, v, mask, 1/std::sqrt((float) s.dk), 0.0f, 0.0f);
            ggml_prec_set_acc(cur, GGML_PREC_F32); // as llama.cpp
            ggml_build_forward_expand(gf, cur);
        }
        m.alloc(backend);
        std::vector<uint8_t> data(ggml_nbytes(cache[0]));
        const std::vector<float> x = normals((size_t) ggml_nelements(cache[0]));
        ggml_quantize_chunk(type, x.data(), data.data(), 0, ggml_nrows(cache[0]), s.dk, nullptr);
        for (ggml_tensor * c : cache) {
            ggml_backend_tensor_set(c, data.data(), 0, std::min(ggml_nbytes(c), data.size()));
        }
        set(q, normals((size_t) ggml_nelements(q)));
        set(mask, causal(s.n_kv, tokens));
        const double bytes = (double) (ggml_nbytes(cache[0]) + ggml_nbytes(cache[1]));
        say("attend", tokens*s.group, 1e6*median(backend, gf, o.number("rounds", 10))/n_layers, bytes);
    }
}

} // namespace

int main(int argc, char ** argv) {
    ggml_backend_load_all();
    ggml_backend_dev_t device = argc > 2 ? ggml_backend_dev_by_name(argv[1]) : nullptr;
    if (!device) {
        std::printf("node_bench DEVICE copy|packed|f16|q8_0|q4_0 [key=value ...]\n");
        return 77;
    }
    options o;
    for (int i = 3; i < argc; ++i) {
        const std::string word = argv[i];
        o.given[word.substr(0, word.find('='))] = word.substr(word.find('=') + 1);
    }
    const std::string what = argv[2], config = o.text("config");
    ggml_backend_t backend = ggml_backend_dev_init(device, nullptr);
    scenario s{};
    s.name = "bench";
    s.config = config.c_str();
    s.dk = s.dv = o.number("dim", 128);
    s.heads_kv = o.number("heads", 8);
    s.group = o.number("group", 4);
    s.n_kv = std::max(o.number("depth", 8192)/512, 1)*512;
    s.tokens = o.number("tokens", 0);
    s.streams = s.used = 1;
    const int n_layers = o.number("layers", 16);
    const std::map<std::string, ggml_type> types = {{"f16", GGML_TYPE_F16}, {"q8_0", GGML_TYPE_Q8_0}, {"q4_0", GGML_TYPE_Q4_0}};
    if (what == "copy") {
        copy(backend, o);
    } else if (what == "packed") {
        packed(backend, o, s, n_layers);
    } else if (types.count(what)) {
        stock(backend, o, s, n_layers, types.at(what));
    } else {
        std::printf("nothing to time is called %s\n", what.c_str());
        return 2;
    }
    return check_failures != 0;
}
