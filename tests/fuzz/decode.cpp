#include "decode.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace {

struct batch {
    llama_batch b;
    int room;
    explicit batch(int n, int n_embd = 0) : b(llama_batch_init(n, n_embd, 1)), room(n) {}
    ~batch() { llama_batch_free(b); }
    batch(const batch &) = delete;

    void add(int s, llama_pos p, bool output) {
        const int i = b.n_tokens++;
        b.pos[i] = p;
        b.n_seq_id[i] = 1;
        b.seq_id[i][0] = s;
        b.logits[i] = output;
    }
};

struct part {
    int s, n;
    llama_pos from;
};

// How many tokens of which sequences; a batch may be larger than what is left.
std::vector<part> parts(const world & w, dice & d) {
    std::vector<part> out;
    const int first = d.pick(0, SEQUENCES - 1), n_seq = d.of({1, 1, 1, 2, 3, SEQUENCES});
    int left = BATCH;
    const bool even = d.one_in(3);
    const int each = d.of({1, 1, 2, 7, 31, 32, 33});
    for (int i = 0; i < n_seq && left > 0; ++i) {
        const int s = (first + i) % SEQUENCES;
        int n = even ? each : d.of({1, 1, 1, 2, 5, 20, 31, 32, 33, 63, 64, 65, 100, 200, BATCH});
        n = std::min({n, left, n_seq > 1 ? 80 : BATCH});
        out.push_back({s, n, w.next(s)});
        left -= n;
    }
    if (!w.of.unified) { // streams are walked in order
        std::sort(out.begin(), out.end(), [](const part & x, const part & y) { return x.s < y.s; });
    }
    return out;
}

struct countdown {
    int left;
    static bool tick(void * data) { return ((countdown *) data)->left-- <= 0; }
};

bool finite(const float * x) {
    return std::all_of(x, x + VOCABULARY, [](float v) { return std::isfinite(v); });
}

double error(const float * x, const float * y) {
    double mean = 0, difference = 0, variance = 0;
    for (int i = 0; i < VOCABULARY; ++i) {
        mean += y[i]/VOCABULARY;
    }
    for (int i = 0; i < VOCABULARY; ++i) {
        difference += (x[i] - y[i])*(double) (x[i] - y[i]);
        variance += (y[i] - mean)*(y[i] - mean);
    }
    return difference/variance;
}

void compare(history & h, world & w, const batch & b) {
    for (int i = 0; i < b.b.n_tokens; ++i) {
        const int s = b.b.seq_id[i][0];
        if (!b.b.logits[i] || w.seqs[s].at(b.b.pos[i]).spoilt) {
            continue;
        }
        const float * x = llama_get_logits_ith(w.packed(), i), * y = llama_get_logits_ith(w.plain(), i);
        if (!finite(y)) {
            h.over = true; // llama.cpp's own: nothing to compare with
            return;
        }
        const std::string where = "logits of sequence " + std::to_string(s) + " at " + std::to_string(b.b.pos[i]);
        if (!finite(x)) {
            throw finding(where + " are not finite, and no token that it sees is");
        }
        const double e = error(x, y);
        ++h.count.compared;
        h.count.sum += e;
        h.count.worst = std::max(h.count.worst, e);
        if (e > w.of.bound) {
            throw finding(where + " differ from f16's by " + std::to_string(e) + " of their variance");
        }
    }
}

void account(world & w, const std::vector<part> & list, bool nan_at, int nan_seq, llama_pos nan_pos) {
    for (const part & p : list) {
        bool spoilt = w.spoilt(p.s);
        for (int i = 0; i < p.n; ++i) {
            spoilt = spoilt || (nan_at && p.s == nan_seq && p.from + i == nan_pos);
            w.seqs[p.s][p.from + i] = {w.new_id(), spoilt};
        }
    }
}

// An aborted call: what had been finished stays, the rest is gone, and nothing older is touched.
void aborted(history & h, world & w, const std::vector<part> & list, const batch & b, std::string & text) {
    ++h.count.aborts;
    text += ", aborted";
    std::vector<part> kept = list;
    for (part & p : kept) {
        const llama_pos max = llama_memory_seq_pos_max(w.packed_memory(), p.s);
        if (max + 1 < p.from || max + 1 > p.from + p.n) {
            throw finding("an aborted call leaves sequence " + std::to_string(p.s) + " with " +
                          std::to_string(max + 1) + " positions: it had " + std::to_string(p.from));
        }
        w.windows[p.s].reached = std::max(w.windows[p.s].reached, p.from + p.n);
        p.n = max + 1 - p.from;
    }
    const int ret = llama_decode(w.plain(), b.b);
    if (ret != 0) {
        throw finding("f16 has no room for a batch that the packed cache began: " + std::to_string(ret));
    }
    w.copies_wait = false;
    for (const part & p : kept) {
        llama_memory_seq_rm(w.plain_memory(), p.s, p.from + p.n, -1);
    }
    account(w, kept, false, 0, 0);
    // The f16 context went on to the end, and its windows may have lost tokens that the packed one's have not.
    h.over = w.of.window && b.b.n_tokens > (int) llama_n_ubatch(w.packed());
}

} // namespace

void settle(world & w) {
    if (!w.copies_wait) {
        return;
    }
    for (int s = 0; s < SEQUENCES; ++s) {
        if (w.next(s) < w.cells() && w.used(s) < w.cells()) {
            batch one(1);
            one.add(s, w.next(s), false);
            one.b.token[0] = 0;
            if (llama_decode(w.plain(), one.b) == 0) {
                llama_memory_seq_rm(w.plain_memory(), s, w.next(s), -1);
                w.copies_wait = false;
                return;
            }
        }
    }
}

void decode(history & h, world & w, dice & d, std::string & text) {
    const std::vector<part> list = parts(w, d);
    int total = 0;
    text += "decode";
    for (const part & p : list) {
        text += " " + std::to_string(p.n) + " of " + std::to_string(p.s) + " at " + std::to_string(p.from);
        total += p.n;
    }
    const bool embeddings = d.one_in(12);
    const bool abort = h.aborts && !w.of.hybrid && d.one_in(w.of.window && total > 32 ? 50 : 12);
    const bool nan = embeddings && !abort && !w.of.hybrid && d.one_in(3), all = d.one_in(4);
    const int n_embd = llama_model_n_embd_inp(llama_get_model(w.plain()));
    batch b(total, embeddings ? n_embd : 0);
    const bool mixed = w.of.unified && list.size() > 1 && d.one_in(3); // tokens in turns
    std::vector<part> todo = list;
    for (int i = 0, at = 0; i < total; ++i) {
        while (todo[(size_t) at].n == 0) {
            at = (at + 1) % (int) todo.size();
        }
        part & p = todo[(size_t) at];
        b.add(p.s, p.from, all || p.n == 1);
        ++p.from; --p.n;
        at = mixed ? (at + 1) % (int) todo.size() : at;
        if (embeddings) {
            for (int k = 0; k < n_embd; ++k) {
                b.b.embd[i*n_embd + k] = (float) (d.unit() - 0.5)*2.4f;
            }
        } else {
            b.b.token[i] = d.pick(0, VOCABULARY - 1);
        }
    }
    const int spoilt = nan ? d.pick(0, total - 1) : 0;
    if (nan) {
        b.b.embd[spoilt*n_embd + d.pick(0, n_embd - 1)] =
            d.of({std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()});
        text += ", not finite: " + std::to_string(b.b.pos[spoilt]) + " of " + std::to_string(b.b.seq_id[spoilt][0]);
    }
    countdown clock{abort ? d.pick(0, 40*(1 + total/32)) : 0};
    llama_set_abort_callback(w.packed(), abort ? countdown::tick : nullptr, &clock);
    const int a = llama_decode(w.packed(), b.b);
    llama_set_abort_callback(w.packed(), nullptr, nullptr);
    if (abort && a == 2) {
        aborted(h, w, list, b, text);
        return;
    }
    if (a == 1 && (w.of.window || w.of.hybrid)) {
        // Decoding with f16 alone would overwrite its windows: whether it has room is counted instead.
        bool room = true;
        for (const part & p : list) {
            room = room && w.used(p.s) + (w.of.unified ? total : p.n) <= w.cells();
        }
        h.count.refusals += room;
        h.count.full     += !room;
        return;
    }
    const int f = llama_decode(w.plain(), b.b);
    w.copies_wait = w.copies_wait && f != 0 && f != 1;
    if (a == 1 && f == 0) {
        ++h.count.refusals;
        text += " (refused)";
        for (const part & p : list) {
            llama_memory_seq_rm(w.plain_memory(), p.s, p.from, -1);
        }
        return;
    }
    if (a != f) {
        throw finding("llama_decode returned " + std::to_string(a) + " and f16's " + std::to_string(f));
    }
    if (a != 0) {
        ++h.count.full;
        return;
    }
    ++h.count.decodes;
    h.count.nans += nan;
    h.count.tokens += (uint64_t) total;
    account(w, list, nan, b.b.seq_id[spoilt][0], b.b.pos[spoilt]);
    compare(h, w, b);
}
