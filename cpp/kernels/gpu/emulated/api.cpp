// The C API's kernel entry points over emulated kernels: the tests of the CPU kernels run on them.
#include "kernels/gpu/emulated/calls.h"

#include "kernels/gpu/emulated/api.h"
#include "kernels/gpu/launch.h"

namespace {

std::string failure;
int chosen_span;

// With "-batch" behind the implementation's name, attention is the batch body's for any number of rows, if it has the
// layer's head dims, else the other one's.
bool wants_batch(const char * impl) { return impl == xq_emulated_name + std::string("-batch"); }
bool is_here(const char * impl) { return std::strcmp(impl, xq_emulated_name) == 0 || wants_batch(impl); }

int outcome() {
    failure = xq_emulator::last_error();
    xq_emulator::clear_error();
    if (!failure.empty()) {
        std::fprintf(stderr, "%s: %s\n", xq_emulated_name, failure.c_str());
    }
    return failure.empty() ? 0 : -2;
}

xq_side side_of(const xq_api_side & s) {
    xq_side r{};
    r.bits = s.bits; r.meta = s.meta; r.rows = s.rows; r.strips = s.strips; r.lanes_last = s.lanes_last; r.fit = s.fit;
    r.words = s.words; r.rot = s.rot; r.eta = s.eta; r.eta2 = s.eta2;
    return r;
}

xqg_layer layer_of(const xq_api_layer & a) {
    xqg_layer v{};
    v.dk = a.dk; v.dv = a.dv; v.n_head_kv = a.n_head_kv;
    v.k = side_of(a.k); v.v = side_of(a.v);
    const xqg_size heads = (xqg_size) a.n_tiles*a.n_head_kv;
    v.k_code_stream = heads*xq_head_words(v.k);
    v.v_code_stream = heads*xq_head_words(v.v);
    v.meta_stream   = heads*(xq_head_meta_bytes(v.k) + xq_head_meta_bytes(v.v));
    v.page_stream   = a.n_rows;
    v.k_row = (xqg_size) a.n_head_kv*a.dk; v.v_row = (xqg_size) a.n_head_kv*a.dv;
    v.k_leads = a.k_leads; v.v_leads = a.v_leads;
    return v;
}

xqg_planes planes_of(const xq_api_layer & a) {
    const xqg_size heads = (xqg_size) a.n_tiles*a.n_head_kv;
    return {a.k_codes, a.v_codes, a.meta, a.meta + heads*xq_head_meta_bytes(side_of(a.k)), a.k_pages, a.v_pages};
}

xqg_attend_args attend_args_of(const xq_api_layer & l, bool batch) {
    xqg_attend_args a{};
    a.layer = layer_of(l);
    a.q_head  = l.dk;
    a.q_token = (xqg_size) l.n_head*l.dk;
    a.mask_token  = l.n_kv;
    a.mask_stream = (xqg_size) l.n_kv*(l.n_tokens/l.n_stream);
    a.n_head = l.n_head; a.n_tokens = a.table_tokens = l.n_tokens; a.n_stream = l.n_stream; a.n_kv = l.n_kv;
    a.scale = l.scale; a.softcap = l.softcap; a.max_bias = l.max_bias;
    const int chunks = xqg_chunks(l.n_kv);
    a.span = batch ? xqg_batch_span(l.n_kv) : chosen_span ? chosen_span : l.whole_rows ? chunks : 1;
    a.n_parts = (chunks + a.span - 1) / a.span;
    return a;
}

xqg_strip_args strip_args_of(const xq_api_side & side, const uint8_t * row_ok, uint32_t lane_mask, int leader) {
    xqg_strip_args a{};
    a.side = side_of(side);
    a.row_mask = row_ok ? 0 : 0xFFFFFFFFu;
    for (int i = 0; i < XQ_TILE && row_ok; ++i) {
        a.row_mask |= (uint32_t) (row_ok[i] != 0) << i;
    }
    a.lane_mask = lane_mask;
    a.leader = leader;
    return a;
}

} // namespace

void xq_emulated_seed(unsigned seed) { xq_emulator::set_seed(seed); }
void xq_emulated_span(int chunks) { chosen_span = chunks; }
const char * xq_emulated_error(void) { return failure.c_str(); }

int xq_api_strip_words(const xq_api_side * side) { return xq_side_words(side_of(*side)); }
int xq_api_meta_bytes(const xq_api_side * side) { return xq_meta_bytes(side->rows, side->meta); }

int xq_api_attend(const char * impl, const xq_api_layer * l) {
    if (!is_here(impl)) {
        return -1;
    }
    const bool batch = wants_batch(impl) && l->dk <= XQG_BATCH_HEAD_DIM && l->dv <= XQG_BATCH_HEAD_DIM;
    const xqg_attend_args a = attend_args_of(*l, batch);
    std::vector<float> parts((size_t) a.n_parts*a.n_tokens*a.n_head*(l->dv + 2), NAN);
    (batch ? xq_call_attend_batch : xq_call_attend)(a, planes_of(*l), l->q, l->mask, l->table, parts.data());
    xq_call_combine({l->dv, a.layer.v.rot, l->n_head, l->n_tokens, a.n_parts, l->sinks ? 1 : 0}, parts.data(), l->sinks, l->out);
    return outcome();
}

int xq_api_rotate(const char * impl, float * x, int n, int block) {
    if (!is_here(impl)) {
        return -1;
    }
    std::vector<float> part(x, x + n);
    part.push_back(0.0f);
    part.push_back(1.0f); // one part with a sum of 1: combining only rotates
    xq_call_combine({n, block, 1, 1, 1, 0}, part.data(), nullptr, x);
    return outcome();
}

int xq_api_seal_layer(const char * impl, const xq_api_layer * l) {
    if (!is_here(impl)) {
        return -1;
    }
    xq_call_seal(layer_of(*l), planes_of(*l), l->table);
    return outcome();
}

int xq_api_seal(const char * impl, const xq_api_side * side, const float * x, const uint8_t * row_ok, uint32_t lane_mask, uint32_t * codes,
                int leader, uint8_t * meta) {
    if (!is_here(impl)) {
        return -1;
    }
    xq_call_seal_strip(strip_args_of(*side, row_ok, lane_mask, leader), x, codes, meta);
    return outcome();
}

int xq_api_seal_unbiased(const char * impl, const xq_api_side * side, const float * x, int n, int lanes, const uint8_t * row_ok,
                         uint32_t * codes, uint8_t * meta) {
    if (!is_here(impl)) {
        return -1;
    }
    xqg_strip_args a = strip_args_of(*side, row_ok, 0xFFFFFFFFu, 0);
    a.n = n;
    a.lanes = lanes;
    xq_call_seal_strip(a, x, codes, meta);
    return outcome();
}

int xq_api_unpack(const char * impl, const xq_api_side * side, const uint32_t * codes, const uint8_t * meta, float * out) {
    if (!is_here(impl)) {
        return -1;
    }
    xq_call_unpack_strip(strip_args_of(*side, nullptr, 0xFFFFFFFFu, 0), codes, meta, out);
    return outcome();
}

int xq_emulated_store(const xq_api_layer * l, const float * k, const float * v, const int64_t * rows) {
    const xqg_layer layer = layer_of(*l);
    xq_call_store({layer, l->dk, layer.k_row, l->dv, layer.v_row, l->n_tokens}, planes_of(*l), k, v, rows);
    return outcome();
}
