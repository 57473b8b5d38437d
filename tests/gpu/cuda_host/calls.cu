// The calls of emulated/api.cpp on a CUDA device: the tests of the CPU kernels run there. Compiled as C++ the same file runs them on
// the emulator, to test itself.
#include "kernels/gpu/emulated/calls.h"

#include "kernels/gpu/cuda/launch.h"

#if !defined(__CUDACC__)
#include "runtime_emulated.h"
#endif

#include <algorithm>

const char * const xq_emulated_name = "cuda-device";

#if defined(__CUDACC__)
namespace xq_emulator { // what api.cpp asks the emulator for

const char * last_error() { return ""; }
void clear_error() {}
void set_seed(uint32_t) {} // the device has an order of its own

} // namespace xq_emulator
#endif

// A device that has failed once fails every call that follows: the process ends, and whoever runs it starts another.
static void fail(const char * what) {
    std::fprintf(stderr, "%s: %s\n", xq_emulated_name, what);
    std::abort();
}

static void good(cudaError_t e) {
    if (e != (cudaError_t) 0) {
        fail(cudaGetErrorString(e));
    }
}

// The arrays of one launch in the device's memory, between margins of sentinels: what a kernel writes outside the arrays that it is
// to write is an error.
class arrays {
  public:
    arrays() : bytes_(MARGIN, SENTINEL) {}
    ~arrays() { cudaFree(base_); }

    // Where a copy will be; written: it goes back to where it came from.
    template <class T> size_t put(const T * from, size_t n) { return place((void *) from, n*sizeof(T), false); }
    template <class T> size_t take(T * from, size_t n) { return place(from, n*sizeof(T), true); }

    template <class T> T * at(size_t place) const { return (T *) (base_ + place); }

    template <class F> void run(F && launch) {
        void * memory = nullptr;
        good(cudaMalloc(&memory, bytes_.size()));
        base_ = (uint8_t *) memory;
        good(cudaMemcpy(base_, bytes_.data(), bytes_.size(), cudaMemcpyHostToDevice));
        good(launch());
        good(cudaDeviceSynchronize());
        std::vector<uint8_t> after(bytes_.size());
        good(cudaMemcpy(after.data(), base_, after.size(), cudaMemcpyDeviceToHost));
        look(after);
    }

  private:
    static constexpr uint8_t SENTINEL = 0xA5;
    static constexpr size_t MARGIN = 256;
    struct array { void * host; size_t at, bytes; };

    std::vector<uint8_t> bytes_;
    std::vector<array> written_;
    uint8_t * base_ = nullptr;

    size_t place(void * from, size_t bytes, bool written) {
        const size_t at = bytes_.size(), end = (at + bytes + 2*MARGIN - 1)/MARGIN*MARGIN;
        bytes_.resize(end, SENTINEL);
        std::memcpy(&bytes_[at], from, bytes);
        if (written) {
            written_.push_back({from, at, bytes});
        }
        return at;
    }

    void look(const std::vector<uint8_t> & after) {
        size_t from = 0;
        written_.push_back({nullptr, bytes_.size(), 0});
        for (const array & a : written_) {
            if (!std::equal(bytes_.begin() + (long) from, bytes_.begin() + (long) a.at, after.begin() + (long) from)) {
                fail("a kernel wrote where it must not");
            }
            if (a.bytes) {
                std::memcpy(a.host, &after[a.at], a.bytes);
            }
            from = a.at + a.bytes;
        }
    }
};

enum { CODES = 1, META = 2, PAGES = 4 }; // what a kernel writes

// All that so many streams have; metadata is one plane for both sides.
class planes {
  public:
    planes(arrays & m, const xqg_layer & l, xqg_planes p, int streams, int written) : m_(m), v_meta_at_((size_t) (p.v_meta - p.k_meta)) {
        const auto in = [&](auto * plane, int kind, xqg_size n) {
            return written & kind ? m.take(plane, (size_t) (streams*n)) : m.put(plane, (size_t) (streams*n));
        };
        k_codes_ = in(p.k_codes, CODES, l.k_code_stream);
        v_codes_ = in(p.v_codes, CODES, l.v_code_stream);
        meta_    = in(p.k_meta, META, l.meta_stream);
        k_pages_ = in(p.k_pages, PAGES, l.page_stream*l.k_row);
        v_pages_ = in(p.v_pages, PAGES, l.page_stream*l.v_row);
    }
    xqg_planes there() const {
        return {m_.at<uint32_t>(k_codes_), m_.at<uint32_t>(v_codes_), m_.at<uint8_t>(meta_), m_.at<uint8_t>(meta_ + v_meta_at_),
                m_.at<uint16_t>(k_pages_), m_.at<uint16_t>(v_pages_)};
    }

  private:
    const arrays & m_;
    size_t v_meta_at_, k_codes_ = 0, v_codes_ = 0, meta_ = 0, k_pages_ = 0, v_pages_ = 0;
};

static size_t table_ints(const int32_t * table) { return (size_t) (table[2] + table[3]*XQ_SEAL_INTS); }

template <class F> static void attend(F && kernel, const xqg_attend_args & a, xqg_planes p, const float * q, const uint16_t * mask,
                                      const int32_t * table, float * out) {
    arrays m;
    const planes all(m, a.layer, p, table[0] + a.n_stream, 0);
    const size_t queries = m.put(q, (size_t) (a.n_tokens*a.q_token)), seen = m.put(mask, (size_t) (a.n_stream*a.mask_stream));
    const size_t t = m.put(table, table_ints(table)), to = m.take(out, (size_t) a.n_parts*a.n_tokens*a.n_head*(a.layer.dv + 2));
    m.run([&] {
        return kernel(a, all.there(), m.at<float>(queries), m.at<uint16_t>(seen), m.at<int32_t>(t), m.at<float>(to), nullptr);
    });
}

void xq_call_attend(const xqg_attend_args & a, xqg_planes p, const float * q, const uint16_t * mask, const int32_t * table, float * out) {
    attend(xq_cuda_attend, a, p, q, mask, table, out);
}

void xq_call_attend_batch(const xqg_attend_args & a, xqg_planes p, const float * q, const uint16_t * mask, const int32_t * table, float * out) {
    attend(xq_cuda_attend_batch, a, p, q, mask, table, out);
}

void xq_call_combine(const xqg_combine_args & a, const float * in, const float * sinks, float * out) {
    arrays m;
    const size_t rows = (size_t) a.n_tokens*a.n_head;
    const size_t parts = m.put(in, a.n_parts*rows*(a.dv + 2)), sink = sinks ? m.put(sinks, (size_t) a.n_head) : 0, to = m.take(out, rows*a.dv);
    m.run([&] { return xq_cuda_combine(a, m.at<float>(parts), sinks ? m.at<float>(sink) : nullptr, m.at<float>(to), nullptr); });
}

void xq_call_store(const xqg_store_args & a, xqg_planes p, const float * k, const float * v, const int64_t * rows) {
    const int64_t last = *std::max_element(rows, rows + a.n_tokens);
    arrays m;
    const planes all(m, a.layer, p, (int) (last/a.layer.page_stream) + 1, PAGES);
    const size_t keys = m.put(k, (size_t) (a.n_tokens*a.k_token)), values = m.put(v, (size_t) (a.n_tokens*a.v_token));
    const size_t at = m.put(rows, (size_t) a.n_tokens);
    m.run([&] { return xq_cuda_store(a, all.there(), m.at<float>(keys), m.at<float>(values), m.at<xqg_size>(at), nullptr); });
}

void xq_call_seal(const xqg_layer & layer, xqg_planes p, const int32_t * table) {
    int streams = 0;
    for (int i = 0; i < table[3]; ++i) {
        streams = std::max(streams, table[table[2] + i*XQ_SEAL_INTS] + 1);
    }
    arrays m;
    const planes all(m, layer, p, streams, CODES | META);
    const size_t t = m.put(table, table_ints(table));
    m.run([&] { return xq_cuda_seal(layer, all.there(), m.at<int32_t>(t), nullptr); });
}

// ---- single strips ----

static size_t numbers(const xqg_strip_args & a) { return (size_t) XQ_LANES*a.side.rows*(a.side.meta == XQ_META_LOG8 ? a.n : 1); }
static size_t words(const xqg_strip_args & a) { return (size_t) xq_side_words(a.side)*(a.side.meta == XQ_META_LOG8 ? a.n : 1); }
static size_t meta_bytes(const xqg_strip_args & a) { return (size_t) xq_meta_bytes(a.side.rows, a.side.meta); }

void xq_call_seal_strip(const xqg_strip_args & a, const float * x, uint32_t * codes, uint8_t * meta) {
    arrays m;
    const size_t from = m.put(x, numbers(a)), to = a.leader ? m.put(codes, words(a)) : m.take(codes, words(a)), with = m.take(meta, meta_bytes(a));
    m.run([&] { return xq_cuda_seal_strip(a, m.at<float>(from), m.at<uint32_t>(to), m.at<uint8_t>(with), nullptr); });
}

void xq_call_unpack_strip(const xqg_strip_args & args, const uint32_t * codes, const uint8_t * meta, float * out) {
    xqg_strip_args a = args;
    a.n = 1;
    arrays m;
    const size_t from = m.put(codes, words(a)), with = m.put(meta, meta_bytes(a)), to = m.take(out, numbers(a));
    m.run([&] { return xq_cuda_unpack_strip(a.side, m.at<uint32_t>(from), m.at<uint8_t>(with), m.at<float>(to), nullptr); });
}
