#include "cache/cache.h"

#include "ggml-backend.h"
#include "llama-batch.h"
#include "llama-impl.h"
#include "llama-model.h"

#include <algorithm>
#include <stdexcept>

namespace {

thread_local std::string last_error;

[[noreturn]] void refuse(const std::string & text) {
    xq_set_error(text);
    throw std::runtime_error(text);
}

std::vector<xq_layer_shape> shapes_of(const xq_cache::params & p) {
    std::vector<xq_layer_shape> shapes;
    for (uint32_t il = 0; il < p.hparams.n_layer_all; ++il) {
        if (p.hparams.has_kv(il) && (!p.filter || p.filter(il))) {
            shapes.push_back({(int) il, (int) p.hparams.n_head_kv(il), (int) p.hparams.n_embd_head_k(il), (int) p.hparams.n_embd_head_v(il),
                              (int) p.hparams.n_head(il)});
        }
    }
    return shapes;
}

void check_head_dim(int il, const char * what, int dim) {
    if (dim % 8 != 0 || dim < 32 || dim > XQ_MAX_HEAD_DIM) {
        refuse("xquant: head dims must be multiples of 8 from 32 to 256; got a " + std::string(what) + " head dim of " +
               std::to_string(dim) + " in layer " + std::to_string(il) + "; use kv=\"f16\" or a stock type for this model");
    }
}

} // namespace

void xq_set_error(const std::string & text) { last_error = text; }
const std::string & xq_error() { return last_error; }

xq_layer_view xq_layer::view() const {
    xq_layer_view v{};
    v.dk = plan.shape.dk; v.dv = plan.shape.dv; v.n_head_kv = plan.shape.n_head_kv;
    v.k = plan.k; v.v = plan.v;
    v.k_code_stream = k_words(); v.v_code_stream = v_words();
    v.meta_stream = k_meta_size() + v_meta_size();
    v.page_stream = n_rows;
    v.k_row = (size_t) v.n_head_kv*v.dk; v.v_row = (size_t) v.n_head_kv*v.dv;
    v.k_leads = owns_k(); v.v_leads = owns_v();
    return v;
}

std::unique_ptr<xq_cache> xq_cache::create(ggml_type & type_k, ggml_type & type_v, bool sliding_window, const params & p) {
    const bool k = type_k == GGML_TYPE_XQ, v = type_v == GGML_TYPE_XQ;
    if (!k && !v) {
        return nullptr;
    }
    xq_set_error("");
    if (k != v) {
        refuse("xquant: keys and values are packed together; got K type " + std::string(ggml_type_name(type_k)) + " and V type " +
               ggml_type_name(type_v) + "; set both to xq and choose bits with k_bits and v_bits");
    }
    type_k = type_v = GGML_TYPE_F16;
    if (p.hparams.is_mla()) {
        refuse("xquant: latent attention (MLA) caches cannot be packed; got the architecture " + p.model.arch_name() + "; use kv=\"f16\"");
    }
    if (p.shares_cells) {
        refuse("xquant: a context that shares another context's cells cannot be packed; got a draft context; use kv=\"f16\" for the draft model");
    }
    if (sliding_window) {
        return nullptr; // its size is bounded already
    }
    if (p.v_trans) {
        refuse("xquant: packed attention replaces flash attention and needs it enabled; got flash attention off; enable it or use kv=\"f16\"");
    }
    try {
        return std::unique_ptr<xq_cache>(new xq_cache(p, xq_config_current()));
    } catch (const std::exception & e) {
        refuse(e.what());
    }
}

xq_cache::xq_cache(const params & p, xq_config config)
    : config(config), kv_size(p.kv_size), n_stream(p.n_stream), n_seq_max(p.n_seq_max) {
    const auto shapes = shapes_of(p);
    for (const auto & s : shapes) {
        check_head_dim(s.il, "key", s.dk);
        check_head_dim(s.il, "value", s.dv);
    }
    xq_tile_rules rules;
    rules.window = config.window; rules.sink = config.sink; rules.max_ubatch = config.max_ubatch;
    rules.n_seq  = n_stream == 1 ? (int) n_seq_max : 1;
    tiles.assign(n_stream, xq_tiles(rules, kv_size));
    for (const auto & plan : xq_make_plan(config, shapes)) {
        xq_layer layer;
        layer.plan    = plan;
        layer.n_tiles = tiles[0].n_tiles();
        layer.n_rows  = rows();
        layers.push_back(layer);
    }
    LLAMA_LOG_INFO("xquant: packing %zu layers, %u page rows a stream; %s\n", layers.size(), rows(), config.text().c_str());
}

void xq_cache::add_layer(ggml_context * ctx, int il, ggml_tensor * k_pages, ggml_tensor * v_pages, bool on_host) {
    if (!on_host) {
        refuse("xquant: packed attention of this build runs on the CPU; got a KV cache on a GPU; keep it there with n_gpu_layers=0 "
               "or offload_kqv=False, or use kv=\"f16\"");
    }
    const auto leader = [&](int of) {
        return std::find_if(layers.begin(), layers.end(), [of](const xq_layer & l) { return l.plan.shape.il == of; });
    };
    const auto it = leader(il);
    GGML_ASSERT(it != layers.end());
    it->k_pages = k_pages;
    it->v_pages = v_pages;
    const auto plane = [&](ggml_type type, size_t n, const char * name) {
        ggml_tensor * t = ggml_new_tensor_2d(ctx, type, (int64_t) n, n_stream);
        ggml_format_name(t, "cache_%s_l%d", name, il);
        return t;
    };
    it->k_codes = it->owns_k() ? plane(GGML_TYPE_I32, it->k_words(), "xq_k") : leader(it->plan.k_leader)->k_codes;
    it->v_codes = it->owns_v() ? plane(GGML_TYPE_I32, it->v_words(), "xq_v") : leader(it->plan.v_leader)->v_codes;
    it->meta    = plane(GGML_TYPE_I8, it->k_meta_size() + it->v_meta_size(), "xq_m");
}

const xq_layer * xq_cache::find(int il) const {
    for (const auto & l : layers) {
        if (l.plan.shape.il == il) {
            return &l;
        }
    }
    return nullptr;
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
        if (l.owns_k()) { copy(l.k_codes); }
        if (l.owns_v()) { copy(l.v_codes); }
        copy(l.meta);
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
