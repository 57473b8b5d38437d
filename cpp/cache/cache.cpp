#include "cache/cache.h"

#include "cache/convert.h"
#include "format/xq_table.h"
#include "kernels/cpu/kernels.h"

#include "ggml-backend.h"
#include "llama-batch.h"
#include "llama-impl.h"
#include "llama-kv-cache.h"
#include "llama-model.h"

#include <algorithm>
#include <new>
#include <stdexcept>

namespace {

thread_local std::string last_error;
thread_local xq_cache::expectation expected;

[[noreturn]] void refuse(const std::string & text) {
    xq_set_error(text);
    throw std::runtime_error(text);
}

std::vector<xq_layer_shape> shapes_of(const xq_cache::params & p) {
    std::vector<xq_layer_shape> shapes;
    for (uint32_t il = 0; il < p.hparams.n_layer_all; ++il) {
        if (p.hparams.has_kv(il) && (!p.filter || p.filter(il))) {
            shapes.push_back({(int) il, (int) p.hparams.n_head_kv(il), (int) p.hparams.n_embd_head_k(il), (int) p.hparams.n_embd_head_v(il),
                              (int) p.hparams.n_head(il), p.offload ? p.model.dev_layer((int) il) : nullptr});
        }
    }
    return shapes;
}

xq_tile_rules rules_for(const xq_config & config, const xq_cache::params & p) {
    xq_tile_rules rules;
    rules.window = config.window;
    rules.sink   = config.sink;
    rules.max_ubatch = std::max(config.max_ubatch, (int) std::min(expected.whole ? expected.n_ubatch : 0, p.kv_size));
    rules.n_seq  = p.n_stream == 1 ? (int) p.n_seq_max : 1;
    return rules;
}

void check_head_dim(int il, const char * what, int dim) {
    if (!xq_head_dim_fits(dim)) {
        refuse("xquant: head dims must be " XQ_HEAD_DIM_RULE "; got a " + std::string(what) + " head dim of " +
               std::to_string(dim) + " in layer " + std::to_string(il) + "; use kv=\"f16\" or a stock type for this model");
    }
}

// A pair whose layers lie on two devices keeps codes of its own; say so, for it costs memory.
void warn_of_parted_pairs(const xq_config & config, std::vector<xq_layer_shape> shapes, const std::vector<xq_layer_plan> & plan) {
    for (auto & s : shapes) {
        s.device = nullptr;
    }
    const auto wanted = xq_make_plan(config, shapes);
    for (size_t i = 0; i < plan.size(); ++i) {
        if (wanted[i].k_leader != plan[i].k_leader || wanted[i].v_leader != plan[i].v_leader) {
            LLAMA_LOG_WARN("xquant: layers %d and %d lie on different devices and do not share codes\n", plan[i - 1].shape.il, plan[i].shape.il);
        }
    }
}

// Why a layer cannot be in buffers of this type, or "".
std::string why_not_in(ggml_backend_buffer_type_t buft, const xq_node_layer & layer) {
    if (ggml_backend_buft_is_host(buft)) {
        return "";
    }
    ggml_backend_dev_t dev = ggml_backend_buft_get_device(buft);
    ggml_backend_reg_t reg = dev ? ggml_backend_dev_backend_reg(dev) : nullptr;
    const auto check = reg ? (xq_layer_check) ggml_backend_reg_get_proc_address(reg, XQ_LAYER_CHECK) : nullptr;
    if (!check) {
        return std::string("needs a backend with packed kernels; got a KV cache on ") + ggml_backend_buft_name(buft) + ", which has none in this build";
    }
    const char * reason = check(&layer);
    return reason ? std::string("on ") + ggml_backend_buft_name(buft) + " needs " + reason : "";
}

} // namespace

void xq_set_error(const std::string & text) { last_error = text; }
const std::string & xq_error() { return last_error; }

void xq_layer::describe() {
    node.dk = plan.shape.dk; node.dv = plan.shape.dv; node.n_head_kv = plan.shape.n_head_kv;
    node.k = plan.k; node.v = plan.v;
    node.k_code_stream = (int64_t) k_words(); node.v_code_stream = (int64_t) v_words();
    node.meta_stream = (int64_t) (k_meta_size() + v_meta_size());
    node.page_stream = n_rows;
    node.k_row = (int64_t) node.n_head_kv*node.dk; node.v_row = (int64_t) node.n_head_kv*node.dv;
    node.k_leads = owns_k(); node.v_leads = owns_v();
    node.v_meta_at = (int64_t) k_meta_size();
}

void xq_cache::expect(const expectation & of) { expected = of; }

std::unique_ptr<xq_cache> xq_cache::create(ggml_type & type_k, ggml_type & type_v, uint32_t & kv_size,
                                           const params & p) {
    const bool k = type_k == GGML_TYPE_XQ, v = type_v == GGML_TYPE_XQ;
    if (!k && !v && !(p.other && p.other->get_xq())) {
        return nullptr;
    }
    xq_set_error("");
    if (p.other) {
        refuse("xquant: a draft that reads another context's keys and values needs them unpacked; got a " +
               std::string(p.other->get_xq() ? "packed target" : "packed draft") +
               "; use kv=\"f16\" or a stock type for both, or run without this draft");
    }
    if (k != v) {
        refuse("xquant: keys and values are packed together; got K type " + std::string(ggml_type_name(type_k)) + " and V type " +
               ggml_type_name(type_v) + "; set both to xq and choose bits with k_bits and v_bits");
    }
    type_k = type_v = GGML_TYPE_F16;
    const bool window = p.swa != LLAMA_SWA_TYPE_NONE;
    if (!window && p.v_trans) {
        refuse("xquant: packed attention replaces flash attention and needs it enabled; got flash attention off; enable it or use kv=\"f16\"");
    }
    try {
        const xq_config config = xq_config_current();
        auto made = !window ? std::unique_ptr<xq_cache>(new xq_cache(p, config, rules_for(config, p)))
            : config.swa == XQ_SWA_PACKED ? create_window(p, config) : nullptr;
        if (made) {
            kv_size = made->kv_size;
            LLAMA_LOG_INFO("xquant: packing %zu layers, %u page rows a stream; %s\n",
                           made->layers.size(), made->rows(), config.text().c_str());
        }
        return made;
    } catch (const std::bad_alloc &) {
        refuse("xquant: the packed cache must fit into memory; got std::bad_alloc for a cache of " + std::to_string(p.kv_size) +
               " tokens; use a smaller n_ctx");
    } catch (const std::exception & e) {
        refuse(e.what());
    }
}

// Null where the plain cache takes no more than this one would.
std::unique_ptr<xq_cache> xq_cache::create_window(const params & p, const xq_config & config) {
    xq_tile_rules rules = rules_for(config, p);
    params of = p;
    // llama.cpp's size of a ring; a smaller cache has room for all tokens of its context.
    const uint32_t ring = GGML_PAD(p.n_swa*(p.n_stream == 1 ? p.n_seq_max : 1) + expected.n_ubatch, 256);
    if (!expected.swa_full && p.kv_size >= ring) {
        if (p.n_seq_max > p.n_stream) {
            LLAMA_LOG_INFO("xquant: window layers stay in f16: %u sequences share their cells\n", p.n_seq_max);
            return nullptr;
        }
        rules.n_swa = p.n_swa;
        rules.swa   = p.swa;
        of.kv_size = xq_tile_rules::ring_cells(p.n_swa, (uint32_t) rules.max_ubatch);
    }
    std::unique_ptr<xq_cache> made(new xq_cache(of, config, rules));
    made->f16_cells = p.kv_size;
    if (made->tiles[0].n_pages() >= made->tiles[0].n_tiles() || made->bytes() >= made->f16_bytes()) {
        LLAMA_LOG_INFO("xquant: window layers stay in f16: packed they would take %zu bytes, and take %zu\n",
                       made->bytes(), made->f16_bytes());
        return nullptr;
    }
    return made;
}

size_t xq_cache::bytes() const {
    size_t n = 0;
    for (const auto & l : layers) {
        n += l.code_bytes() + l.meta_bytes() + l.page_bytes();
    }
    return n*n_stream;
}

size_t xq_cache::f16_bytes() const {
    size_t n = 0;
    for (const auto & l : layers) {
        const int values = model.hparams.is_mla() ? 0 : l.plan.shape.dv; // f16 reads them from the keys' latents
        n += (size_t) l.plan.shape.n_head_kv*(l.plan.shape.dk + values)*2;
    }
    return n*f16_cells*n_stream;
}

xq_cache::xq_cache(const params & p, const xq_config & config, const xq_tile_rules & rules)
    : model(p.model), config(config), kv_size(p.kv_size), n_stream(p.n_stream), n_seq_max(p.n_seq_max),
      f16_cells(p.kv_size), micro_batch((uint32_t) rules.max_ubatch) {
    const auto shapes = shapes_of(p);
    for (const auto & s : shapes) {
        check_head_dim(s.il, "key", s.dk);
        check_head_dim(s.il, "value", s.dv);
    }
    tiles.assign(n_stream, xq_tiles(rules, kv_size));
    for (int il = 0; p.reuse && il < (int) p.hparams.n_layer_all; ++il) {
        if (p.reuse(il) >= 0 && (!p.filter || p.filter(il))) {
            reused[il] = p.reuse(il);
        }
    }
    const auto plans = xq_make_plan(config, shapes);
    warn_of_parted_pairs(config, shapes, plans);
    for (const auto & plan : plans) {
        xq_layer layer;
        layer.plan    = plan;
        layer.n_tiles = tiles[0].n_tiles();
        layer.n_rows  = rows();
        layer.describe();
        layers.push_back(layer);
    }
}

void xq_cache::add_layer(ggml_context * ctx, int il, ggml_tensor * k_pages, ggml_tensor * v_pages, ggml_backend_buffer_type_t buft) {
    const auto layer_of = [&](int of) {
        return std::find_if(layers.begin(), layers.end(), [of](const xq_layer & l) { return l.plan.shape.il == of; });
    };
    const auto it = layer_of(il);
    GGML_ASSERT(it != layers.end());
    const std::string why = why_not_in(buft, it->node);
    if (!why.empty()) {
        refuse("xquant: packed attention " + why + "; keep the cache on the CPU with n_gpu_layers=0 or offload_kqv=False, or use kv=\"f16\"");
    }
    const auto plane = [&](ggml_type type, size_t n, const char * name) {
        ggml_tensor * t = ggml_new_tensor_2d(ctx, type, (int64_t) n, n_stream);
        ggml_format_name(t, "cache_%s_l%d", name, il);
        return t;
    };
    it->on_host = ggml_backend_buft_is_host(buft);
    it->planes  = {
        k_pages, v_pages,
        it->owns_k() ? plane(GGML_TYPE_I32, it->k_words(), "xq_k") : layer_of(it->plan.k_leader)->planes.k_codes,
        it->owns_v() ? plane(GGML_TYPE_I32, it->v_words(), "xq_v") : layer_of(it->plan.v_leader)->planes.v_codes,
        plane(GGML_TYPE_I8, it->k_meta_size() + it->v_meta_size(), "xq_m"),
    };
    const auto & s = it->plan.shape;
    if (config.k_metric == XQ_METRIC_QUERIES && s.n_head_kv > 0) {
        it->metric = std::make_shared<xq_metric>(buft, il, s.dk, s.n_head_kv, model.hparams.no_alloc);
    }
}

const xq_layer * xq_cache::find(int il) const {
    const auto other = reused.find(il);
    for (const auto & l : layers) {
        if (l.plan.shape.il == (other == reused.end() ? il : other->second)) {
            return &l;
        }
    }
    return nullptr;
}

void xq_cache::add_outdated(uint32_t stream, const llama_kv_cells & cells, std::vector<uint32_t> & idxs) const {
    for (const uint32_t cell : tiles[stream].outdated(cells, idxs)) {
        if (std::find(idxs.begin(), idxs.end(), cell) == idxs.end()) {
            idxs.push_back(cell);
        }
    }
}

void xq_cache::drop_outdated(uint32_t stream, llama_kv_cells & cells, const std::vector<uint32_t> & idxs) const {
    for (const uint32_t cell : tiles[stream].outdated(cells, idxs)) {
        cells.rm(cell);
    }
}

// Pages are copied by llama_kv_cache with its own tensors.
void xq_cache::copy_stream(uint32_t src, uint32_t dst) {
    tiles[dst] = tiles[src];
    std::vector<uint8_t> bytes; // through the host: rare, and tensors of any backend can be read this way
    const auto copy = [&](ggml_tensor * t) {
        bytes.resize(t->nb[1]);
        ggml_backend_tensor_get(t, bytes.data(), src*t->nb[1], bytes.size());
        ggml_backend_tensor_set(t, bytes.data(), dst*t->nb[1], bytes.size());
    };
    for (const auto & l : layers) {
        if (l.owns_k()) { copy(l.planes.k_codes); }
        if (l.owns_v()) { copy(l.planes.v_codes); }
        copy(l.planes.meta);
    }
}

void xq_cache::begin_step() {
    watch.stopped = false;
    for (auto & t : tiles) {
        t.confirm();
    }
}

void xq_cache::undo_step() {
    for (auto & t : tiles) {
        t.undo();
    }
}

void xq_cache::finish_seals() {
    for (uint32_t s = 0; s < n_stream; ++s) {
        if (tiles[s].is_pending()) {
            seal_tiles(s, tiles[s].seals());
        }
    }
}

void xq_cache::settle(uint32_t stream, const llama_kv_cells & cells) { seal_tiles(stream, tiles[stream].settle(cells)); }

void xq_cache::seal_tiles(uint32_t stream, const std::vector<xq_seal> & seals) {
    for (const xq_seal & s : seals) {
        xq_seal_tile(layers, stream, s);
    }
}

ggml_tensor * xq_cache::build_table(ggml_context * ctx, const llama_ubatch & ubatch) const {
    const int ns = n_stream == 1 ? 1 : (int) ubatch.n_seqs_unq;
    const int n  = xq_table_seals_at((int) ubatch.n_tokens, ns, tiles[0].n_tiles()) + ns*tiles[0].n_pages()*XQ_SEAL_INTS;
    ggml_tensor * table = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, n);
    ggml_set_input(table);
    ggml_set_name(table, "attn_inp_xq_table");
    return table;
}

void xq_cache::set_table(ggml_tensor * dst, const llama_ubatch & ubatch, uint32_t stream0, const std::vector<int32_t> & streams) const {
    GGML_ASSERT(ggml_backend_buffer_is_host(dst->buffer));
    const int ns = (int) streams.size(), n_tiles = tiles[0].n_tiles(), n_tokens = (int) ubatch.n_tokens;
    int32_t * table = (int32_t *) dst->data;
    std::fill(table, table + XQ_TABLE_HEAD, 0);
    table[0] = (int32_t) stream0;
    table[1] = n_tiles;
    table[2] = xq_table_seals_at(n_tokens, ns, n_tiles);
    std::copy(ubatch.pos, ubatch.pos + n_tokens, table + XQ_TABLE_HEAD);
    int32_t * tile = table + xq_table_tiles_at(n_tokens);
    int32_t * seal = table + table[2];
    for (int s = 0; s < ns; ++s) {
        GGML_ASSERT((uint32_t) streams[s] == stream0 + s); // as the mask and the stock cache views assume
        const xq_tiles & of = tiles[streams[s]];
        for (int t = 0; t < n_tiles; ++t, tile += XQ_TILE_INTS) {
            tile[0] = of.page(t);
            tile[1] = of.from(t);
        }
        for (const xq_seal & e : of.seals()) {
            const int32_t entry[XQ_SEAL_INTS] = {(int32_t) streams[s], e.tile, e.page, (int32_t) e.cells};
            seal = std::copy(entry, entry + XQ_SEAL_INTS, seal);
            ++table[3];
        }
    }
}
