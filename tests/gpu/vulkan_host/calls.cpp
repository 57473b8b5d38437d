// The calls of emulated/api.cpp, on a Vulkan device.
#include "kernels/gpu/vulkan/arguments.h"

#include "kernels/gpu/emulated/calls.h"

#include "arrays.h"
#include "shared_words.h" // generated, as the shaders are

#include <algorithm>

const char * const xq_emulated_name = "vulkan";

namespace {

std::string error;

enum { CODES = 1, META = 2, PAGES = 4 }; // what a shader writes

// All that so many streams have; metadata is one plane for both sides.
xq_vulkan_planes put(xq_arrays & m, const xqg_layer & l, xqg_planes p, int streams, int written) {
    const auto in = [&](auto * plane, int kind, xqg_size n) { return written & kind ? m.take(plane, (size_t) (streams*n)) : m.put(plane, (size_t) (streams*n)); };
    xq_vulkan_planes r;
    r.k_codes = in(p.k_codes, CODES, l.k_code_stream);
    r.v_codes = in(p.v_codes, CODES, l.v_code_stream);
    r.k_meta  = in(p.k_meta, META, l.meta_stream);
    r.v_meta  = r.k_meta + (uint64_t) (p.v_meta - p.k_meta);
    r.k_pages = in(p.k_pages, PAGES, l.page_stream*l.k_row);
    r.v_pages = in(p.v_pages, PAGES, l.page_stream*l.v_row);
    return r;
}

// Constant 0 has no place in memory.
std::vector<uint32_t> from_1(std::vector<uint32_t> c) {
    c.insert(c.begin(), 0);
    return c;
}

size_t seal_bytes(const xq_side & k) { return xqg_seal_bytes(k, sizeof(uint32_t)*XQ_RANKED_WORDS); }

// Shared memory that every desktop device has, less what device.glsl takes to exchange numbers.
constexpr size_t SHARED_LIMIT = 32*1024 - XQ_EXCHANGED;

size_t table_ints(const int32_t * table) { return (size_t) (table[2] + table[3]*XQ_SEAL_INTS); }

} // namespace

namespace xq_emulator { // what api.cpp asks the emulator for

const char * last_error() { return error.c_str(); }
void clear_error() { error.clear(); }
void set_seed(uint32_t) {} // the device has an order of its own

} // namespace xq_emulator

#define EXPORTED extern "C" __attribute__((visibility("default")))

// "" once there is a device, else why not; xq_vulkan_device says which one.
EXPORTED const char * xq_vulkan_start(void) {
    error.clear();
    xq_child_start(error);
    return error.c_str();
}
EXPORTED const char * xq_vulkan_device(void) { return xq_child_device(); }
EXPORTED int xq_vulkan_process(void) { return xq_child_process(); }
EXPORTED void xq_vulkan_patience(int seconds) { xq_child_patience(seconds); }
EXPORTED void xq_set_mutant(int i) { xq_mutant = (uint32_t) i; }

void xq_call_attend(const xqg_attend_args & a, xqg_planes p, const float * q, const uint16_t * mask, const int32_t * table, float * out) {
    xq_attend_push push;
    xq_arrays m(error);
    push.p = put(m, a.layer, p, table[0] + a.n_stream, 0);
    push.q     = m.put(q, (size_t) (a.n_tokens*a.q_token));
    push.mask  = m.put(mask, (size_t) (a.n_stream*a.mask_stream));
    push.table = m.put(table, table_ints(table));
    push.result = m.take(out, (size_t) a.n_parts*a.n_tokens*a.n_head*(a.layer.dv + 2));
    push.q_token = (int32_t) a.q_token;
    push.q_head  = (int32_t) a.q_head;
    push.mask_token  = (int32_t) a.mask_token;
    push.mask_stream = (int32_t) a.mask_stream;
    push.n_tokens = a.n_tokens;
    push.n_stream = a.n_stream;
    push.n_kv = a.n_kv;
    push.first_token  = a.first_token;
    push.first_stream = a.first_stream;
    push.table_tokens = a.table_tokens;
    push.span = a.span;
    push.n_parts = a.n_parts;
    const std::vector<uint32_t> c = from_1(xq_vulkan_attend_constants(a.layer, a.n_head, a.scale, a.softcap, a.max_bias));
    const int all = a.n_tokens/a.n_stream*(a.n_head/a.layer.n_head_kv);
    const int rows = xq_vulkan_rows(a.layer, all, 8, SHARED_LIMIT);
    const xq_shader shader = rows == 1 ? XQ_ATTEND_1 : rows == 2 ? XQ_ATTEND_2 : rows == 4 ? XQ_ATTEND_4 : XQ_ATTEND_8;
    m.run(shader, push, xqg_attend_grid(a.n_parts, a.layer.n_head_kv, a.n_stream, all, rows, xq_vulkan_attend_bytes(a.layer, rows)), c);
}

void xq_call_attend_batch(const xqg_attend_args &, xqg_planes, const float *, const uint16_t *, const int32_t *, float *) {
    error = "Vulkan has no batch body";
}

void xq_call_combine(const xqg_combine_args & a, const float * in, const float * sinks, float * out) {
    xq_combine_push push;
    const size_t rows = (size_t) a.n_tokens*a.n_head;
    xq_arrays m(error);
    push.parts  = m.put(in, a.n_parts*rows*(a.dv + 2));
    push.sinks  = sinks ? m.put(sinks, (size_t) a.n_head) : 0;
    push.result = m.take(out, rows*a.dv);
    push.dv  = a.dv;
    push.rot = a.rot;
    push.n_head    = a.n_head;
    push.n_tokens  = a.n_tokens;
    push.n_parts   = a.n_parts;
    push.has_sinks = a.has_sinks;
    m.run(XQ_COMBINE, push, {(int) rows, 1, 1, 32, 0});
}

void xq_call_store(const xqg_store_args & a, xqg_planes p, const float * k, const float * v, const int64_t * rows) {
    xq_store_push push;
    const int64_t last = *std::max_element(rows, rows + a.n_tokens);
    xq_arrays m(error);
    push.p = put(m, a.layer, p, (int) (last/a.layer.page_stream) + 1, PAGES);
    push.k = m.put(k, (size_t) (a.n_tokens*a.k_token));
    push.v = m.put(v, (size_t) (a.n_tokens*a.v_token));
    push.rows = m.put(rows, (size_t) a.n_tokens);
    push.k_head  = (int32_t) a.k_head;
    push.k_token = (int32_t) a.k_token;
    push.v_head  = (int32_t) a.v_head;
    push.v_token = (int32_t) a.v_token;
    push.n_tokens = a.n_tokens;
    m.run(XQ_STORE, push, {a.n_tokens, a.layer.n_head_kv, 1, 32, 0}, from_1(xq_vulkan_layer_constants(a.layer)));
}

void xq_call_seal(const xqg_layer & layer, xqg_planes p, const int32_t * table) {
    xq_seal_push push;
    int streams = 0;
    for (int i = 0; i < table[3]; ++i) {
        streams = std::max(streams, table[table[2] + i*XQ_SEAL_INTS] + 1);
    }
    xq_arrays m(error);
    push.p = put(m, layer, p, streams, CODES | META);
    push.table = m.put(table, table_ints(table));
    push.walkers = XQG_SEAL_WALKERS;
    const xq_grid grid = xqg_seal_grid(layer.k, layer.v, layer.n_head_kv, seal_bytes(layer.k));
    m.run(XQ_SEAL, push, grid, from_1(xq_vulkan_layer_constants(layer)));
}

// ---- single strips ----

namespace {

struct strip_push {
    xqg_strip_args a;
    uint64_t x, codes, meta;
};

size_t numbers(const xqg_strip_args & a) { return (size_t) XQ_LANES*a.side.rows*(a.side.meta == XQ_META_LOG8 ? a.n : 1); }
size_t words(const xqg_strip_args & a) { return (size_t) xq_side_words(a.side)*(a.side.meta == XQ_META_LOG8 ? a.n : 1); }
size_t meta_bytes(const xqg_strip_args & a) { return (size_t) xq_meta_bytes(a.side.rows, a.side.meta); }

} // namespace

void xq_call_seal_strip(const xqg_strip_args & a, const float * x, uint32_t * codes, uint8_t * meta) {
    xq_arrays m(error);
    const strip_push push = {a, m.put(x, numbers(a)), a.leader ? m.put(codes, words(a)) : m.take(codes, words(a)), m.take(meta, meta_bytes(a))};
    m.run(XQ_SEAL_ONE, push, {1, 1, 1, 32, seal_bytes(a.side)});
}

void xq_call_unpack_strip(const xqg_strip_args & args, const uint32_t * codes, const uint8_t * meta, float * out) {
    xqg_strip_args a = args;
    a.n = 1;
    xq_arrays m(error);
    const strip_push push = {a, m.take(out, numbers(a)), m.put(codes, words(a)), m.put(meta, meta_bytes(a))};
    m.run(XQ_UNPACK_ONE, push, {1, 1, 1, 32, 2*xqg_unpack_bytes(a.side)});
}
