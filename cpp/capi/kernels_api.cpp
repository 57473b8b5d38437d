#include "capi/kernels_api.h"

#include "capi/device_api.h"
#include "reference/reference.h"

#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

namespace {

const xq_cpu_kernels * named(const char * name) {
    const xq_cpu_kernels * list[8];
    const int n = xq_cpu_list(list, 8);
    for (int i = 0; i < n; ++i) {
        if (std::strcmp(list[i]->name, name) == 0) {
            return list[i];
        }
    }
    return nullptr;
}

xq_side side_of(const xq_api_side & s) {
    xq_side r{};
    r.bits = s.bits; r.meta = s.meta; r.rows = s.rows; r.strips = s.strips; r.lanes_last = s.lanes_last; r.fit = s.fit;
    r.words = s.words; r.rot = s.rot; r.eta = s.eta; r.eta2 = s.eta2;
    return r;
}

} // namespace

xq_layer_view xq_api_view(const xq_api_layer & a) {
    xq_layer_view v{};
    v.dk = a.dk; v.dv = a.dv; v.n_head_kv = a.n_head_kv;
    v.k = side_of(a.k); v.v = side_of(a.v);
    const size_t heads = (size_t) a.n_tiles*a.n_head_kv;
    v.k_code_stream = heads*xq_head_words(v.k);
    v.v_code_stream = heads*xq_head_words(v.v);
    v.meta_stream   = heads*(xq_head_meta_bytes(v.k) + xq_head_meta_bytes(v.v));
    v.page_stream   = a.n_rows;
    v.k_row = (size_t) a.n_head_kv*a.dk; v.v_row = (size_t) a.n_head_kv*a.dv;
    v.k_codes = a.k_codes; v.v_codes = a.v_codes;
    v.k_meta = a.meta; v.v_meta = a.meta + heads*xq_head_meta_bytes(v.k);
    v.k_pages = a.k_pages; v.v_pages = a.v_pages;
    v.k_leads = a.k_leads != 0; v.v_leads = a.v_leads != 0;
    return v;
}

namespace {

template <class F> void run_threads(int n, F && f) {
    std::vector<std::thread> threads;
    for (int i = 1; i < n; ++i) {
        threads.emplace_back(f, i, n);
    }
    f(0, n);
    for (auto & t : threads) {
        t.join();
    }
}

} // namespace

int xq_api_strip_words(const xq_api_side * side) { return xq_side_words(side_of(*side)); }
int xq_api_meta_bytes(const xq_api_side * side) { return xq_meta_bytes(side->rows, side->meta); }

int xq_api_seal(const char * impl, const xq_api_side * side, const float * x, const uint8_t * row_ok, uint32_t lane_mask,
                uint32_t * codes, int leader, uint8_t * meta) {
    if (std::strcmp(impl, "reference") == 0) {
        xq_ref_seal_strip(side_of(*side), x, row_ok, lane_mask, codes, leader != 0, meta);
        return 0;
    }
    const auto * k = named(impl);
    if (!k) {
        return -1;
    }
    k->seal_strip(side_of(*side), x, row_ok, lane_mask, codes, leader != 0, meta);
    return 0;
}

int xq_api_seal_unbiased(const char * impl, const xq_api_side * side, const float * x, int n, int lanes, const uint8_t * row_ok,
                         uint32_t * codes, uint8_t * meta) {
    const auto * k = named(impl);
    const bool reference = std::strcmp(impl, "reference") == 0;
    if (!k && !reference) {
        return -1;
    }
    (reference ? xq_ref_seal_unbiased : k->seal_unbiased)(side_of(*side), x, n, lanes, row_ok, codes, meta);
    return 0;
}

int xq_api_rotate(const char * impl, float * x, int n, int block) {
    const auto * k = named(impl);
    const bool reference = std::strcmp(impl, "reference") == 0;
    if (!k && !reference) {
        return -1;
    }
    (reference ? xq_ref_rotate : k->rotate)(x, n, block);
    return 0;
}

int xq_api_unpack(const char * impl, const xq_api_side * side, const uint32_t * codes, const uint8_t * meta, float * out) {
    if (std::strcmp(impl, "reference") == 0) {
        xq_ref_unpack_strip(side_of(*side), codes, meta, out);
        return 0;
    }
    const auto * k = named(impl);
    if (!k) {
        return -1;
    }
    k->unpack_strip(side_of(*side), codes, meta, out);
    return 0;
}

int xq_api_mac(const char * impl, int bits, int rows, const uint32_t * codes, const float * m, int m_stride, int n, float * acc) {
    const auto * k = named(impl);
    if (!k) {
        return -1;
    }
    k->mac(bits, rows, codes, m, m_stride, n, acc, XQ_LANES);
    return 0;
}

int xq_api_seal_layer(const char * impl, const xq_api_layer * a) {
    const auto * k = named(impl);
    const xq_layer_view view = xq_api_view(*a);
    if (!k) {
        return xq_device_seal_layer(impl, view, *a);
    }
    run_threads(a->n_threads, [&](int ith, int nth) { xq_seal_tiles(*k, view, a->table, ith, nth); });
    return 0;
}

int xq_api_attend(const char * impl, const xq_api_layer * a) {
    const auto * k = named(impl);
    const xq_layer_view view = xq_api_view(*a);
    if (!k) {
        return xq_device_attend(impl, view, *a);
    }
    xq_attend_args args{};
    args.layer = view;
    args.q = a->q;
    args.q_head = a->dk;
    args.q_token = (size_t) a->n_head*a->dk;
    args.mask = a->mask;
    args.mask_token  = a->n_kv;
    args.mask_stream = (size_t) a->n_kv*(a->n_tokens/a->n_stream);
    args.table = a->table;
    args.sinks = a->sinks;
    args.n_head = a->n_head; args.n_tokens = a->n_tokens; args.n_stream = a->n_stream; args.n_kv = a->n_kv;
    args.scale = a->scale; args.softcap = a->softcap; args.max_bias = a->max_bias;
    args.n_parts = a->whole_rows ? 1 : std::max(1, (a->n_kv + XQ_TILE*XQ_CHUNK_TILES - 1) / (XQ_TILE*XQ_CHUNK_TILES));
    std::vector<float> parts;
    args.out = a->out;
    if (args.n_parts > 1) {
        parts.resize((size_t) args.n_parts*a->n_tokens*a->n_head*(a->dv + 2));
        args.out = parts.data();
    }
    run_threads(a->n_threads, [&](int ith, int nth) { xq_attend(*k, args, ith, nth); });
    if (args.n_parts > 1) {
        run_threads(a->n_threads, [&](int ith, int nth) {
            xq_combine(*k, parts.data(), a->out, a->sinks, a->dv, args.layer.v.rot, a->n_head, a->n_tokens, args.n_parts, ith, nth);
        });
    }
    return 0;
}
