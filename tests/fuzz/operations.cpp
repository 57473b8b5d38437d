#include "operations.h"

#include "decode.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>

namespace {

std::string format(const char * f, ...) {
    char text[256];
    va_list args;
    va_start(args, f);
    std::vsnprintf(text, sizeof text, f, args);
    va_end(args);
    return text;
}

void remove(world & w, int s, llama_pos p0, llama_pos p1) {
    const bool a = llama_memory_seq_rm(w.packed_memory(), s, p0, p1);
    const bool b = llama_memory_seq_rm(w.plain_memory(), s, p0, p1);
    if (a != b) {
        throw finding(format("seq_rm returned %d and f16's %d", a, b));
    }
    if (a) {
        auto & q = w.seqs[s];
        q.erase(q.lower_bound(std::max(p0, 0)), p1 < 0 ? q.end() : q.lower_bound(p1));
    }
}

// [p0, p1) of a sequence, by kind: all, its end, its start, a hole.
void some_range(dice & d, const world & w, int s, llama_pos & p0, llama_pos & p1) {
    const llama_pos n = w.next(s);
    p0 = p1 = -1;
    if (w.of.window && !d.one_in(8)) { // what llama.cpp's window still holds, or all
        p0 = d.one_in(3) ? -1 : std::max(0, n - d.pick(0, 30));
        return;
    }
    switch (d.pick(0, 7)) {
        case 0: break;
        case 1: case 2: case 3: p0 = std::max(0, n - d.of({1, 2, 20, 33, 64, 130})); break;
        case 4: p0 = 0; p1 = d.pick(0, std::max(0, (int) n)); break;
        case 5: p0 = d.pick(0, std::max(0, (int) n)); break;
        default: p0 = d.pick(0, std::max(0, (int) n)); p1 = p0 + d.pick(1, 80);
    }
}

void copy(world & w, dice & d, std::string & text) {
    const int s = d.pick(0, SEQUENCES - 1), t = (s + d.pick(1, SEQUENCES - 1)) % SEQUENCES;
    llama_pos p0 = -1, p1 = -1;
    if (w.of.unified && !w.of.hybrid) {
        some_range(d, w, s, p0, p1);
    }
    text += format("copy %d to %d, [%d, %d)", s, t, p0, p1);
    if (w.of.unified) { // a cell that the target has already may not be added to it
        remove(w, t, p0, p1);
        if (w.of.hybrid && !w.seqs[t].empty()) {
            return; // a recurrent state cannot be taken back
        }
    }
    if (w.of.window && w.of.unified && !w.seqs[t].empty()) {
        return; // windows may still hold what the target has
    }
    llama_memory_seq_cp(w.packed_memory(), s, t, p0, p1);
    llama_memory_seq_cp(w.plain_memory(), s, t, p0, p1);
    if (!w.of.unified) {
        w.seqs[t].clear();
        w.copies_wait = true;
    }
    w.windows[t] = w.windows[s];
    for (const auto & c : w.seqs[s]) {
        if (c.first >= p0 && (p1 < 0 || c.first < p1)) {
            w.seqs[t][c.first] = w.of.unified ? c.second : visible{w.new_id(), c.second.spoilt};
        }
    }
}

void save(history & h, world & w, dice & d, std::string & text) {
    settle(w);
    saved s;
    s.whole = d.one_in(3);
    const int q = s.whole ? -1 : d.pick(0, SEQUENCES - 1);
    text += format("save %d", q);
    s.packed = packed_state(w.packed(), q);
    s.plain  = packed_state(w.plain(), q);
    if (s.packed.empty()) {
        throw finding("a state is empty");
    }
    s.seqs = s.whole ? w.seqs : std::vector<sequence>{w.seqs[q]};
    s.windows = s.whole ? w.windows : std::vector<window_history>{w.windows[q]};
    if (h.stash.size() > 4) {
        h.stash.erase(h.stash.begin() + d.pick(0, 4));
    }
    h.stash.push_back(std::move(s));
    ++h.count.saves;
}

bool restore(llama_context * ctx, const std::string & s, bool whole, int q) {
    const auto * data = (const uint8_t *) s.data();
    const size_t n = whole ? llama_state_set_data(ctx, data, s.size())
                           : llama_state_seq_set_data(ctx, data, s.size(), q);
    if (n != 0 && n != s.size()) {
        throw finding(format("restoring read %zu of %zu bytes", n, s.size()));
    }
    return n != 0;
}

void empty(world & w, bool whole, int q) {
    for (int s = 0; s < SEQUENCES; ++s) {
        if (whole || s == q) {
            w.forget(s);
        }
    }
    for (llama_memory_t m : {w.packed_memory(), w.plain_memory()}) {
        if (whole) {
            llama_memory_clear(m, true);
        } else {
            llama_memory_seq_rm(m, q, -1, -1);
        }
    }
}

void load(history & h, world & w, dice & d, std::string & text) {
    if (h.stash.empty()) {
        text += "load nothing";
        return;
    }
    settle(w);
    const saved & s = h.stash[(size_t) d.pick(0, (int) h.stash.size() - 1)];
    const int q = d.pick(0, SEQUENCES - 1);
    const bool damage = d.one_in(4);
    text += format("load %s%s%d", damage ? "damaged " : "", s.whole ? "all, " : "into ", q);
    if (damage) {
        std::string bad = s.packed;
        const size_t from = s.whole ? 4 + 5 : 8; // llama.cpp's own header
        if (d.one_in(3)) {
            bad.resize(from + d.bits() % (bad.size() - from));
        } else {
            bad[from + d.bits() % (bad.size() - from)] ^= (char) (1 << d.pick(0, 7));
        }
        ++h.count.damaged;
        // The window's and the recurrent part behind ours are llama.cpp's, without a checksum.
        if (!w.of.window && !w.of.hybrid) {
            if (restore(w.packed(), bad, s.whole, q)) {
                throw finding("a damaged state is taken");
            }
            if (s.whole ? w.packed_any() : llama_memory_seq_pos_max(w.packed_memory(), q) >= 0) {
                throw finding("a refused state leaves tokens");
            }
            empty(w, s.whole, q);
        }
        return;
    }
    if (!s.whole && w.of.hybrid) {
        remove(w, q, -1, -1);
    }
    const bool a = restore(w.packed(), s.packed, s.whole, q);
    if (!s.whole && s.seqs[0].empty()) { // llama.cpp's own leaves a sequence as it is if the state has no token
        llama_memory_seq_rm(w.plain_memory(), q, -1, -1);
        if (w.of.window) { // the window's part of a packed context is llama.cpp's own as well
            llama_memory_seq_rm(w.packed_memory(), q, -1, -1);
        }
    }
    const bool b = restore(w.plain(), s.plain, s.whole, q);
    ++h.count.loads;
    if (a && b) {
        std::map<uint64_t, uint64_t> now; // cells that sequences share stay shared
        for (size_t i = 0; i < s.seqs.size(); ++i) {
            sequence & target = w.seqs[s.whole ? i : (size_t) q];
            target.clear();
            w.windows[s.whole ? i : (size_t) q] = s.windows[i];
            for (const auto & c : s.seqs[i]) {
                uint64_t & id = now[c.second.id];
                id = id ? id : w.new_id();
                target[c.first] = {id, c.second.spoilt};
            }
        }
        for (int i = 0; i < SEQUENCES; ++i) {
            w.windows[i].restored = w.windows[i].restored || s.whole || i == q;
        }
        return;
    }
    if (a != b) {
        text += a ? " (f16 refuses)" : " (refused)";
    }
    h.count.refusals += b && !a;
    h.count.full += !a && !b;
    empty(w, s.whole, q);
    h.over = w.of.window || w.of.hybrid;
}

void sequence_operation(world & w, dice & d, std::string & text) {
    const int s = d.pick(0, SEQUENCES - 1);
    const int kind = d.pick(0, 19);
    if (kind < 12) {
        llama_pos p0, p1;
        some_range(d, w, s, p0, p1);
        text += format("remove %d, [%d, %d)", s, p0, p1);
        remove(w, s, p0, p1);
    } else if (kind < 17) {
        copy(w, d, text);
    } else if (kind == 17) {
        text += format("keep %d", s);
        for (llama_memory_t m : {w.packed_memory(), w.plain_memory()}) {
            llama_memory_seq_keep(m, s);
        }
        for (int q = 0; q < SEQUENCES; ++q) {
            if (q != s && w.of.unified) { // llama.cpp looks into the stream of s alone
                w.forget(q);
            }
        }
    } else if (kind == 18) {
        const bool data = d.one_in(2);
        text += data ? "clear with data" : "clear";
        for (llama_memory_t m : {w.packed_memory(), w.plain_memory()}) {
            llama_memory_clear(m, data);
        }
        for (int q = 0; q < SEQUENCES; ++q) {
            w.forget(q);
        }
    } else {
        text += format("empty %d", s);
        remove(w, s, -1, -1);
    }
}

// The control: f16 alone loses 32 tokens, which comparing must find.
void forget_in_f16(world & w, int s, dice & d) {
    if (w.next(s) > 64) {
        const llama_pos p = d.pick(0, w.next(s) - 34);
        llama_memory_seq_rm(w.plain_memory(), s, p, p + 32);
    }
}

} // namespace

void operate(history & h, dice d, std::string & text) {
    const int which = d.one_in(5);
    world & w = h.worlds[which];
    text = which ? "B: " : "A: ";
    const int kind = d.pick(0, 99);
    if (kind < 55) {
        decode(h, w, d, text);
    } else if (kind < 85) {
        // What belongs to no other sequence leaves their states as they are, byte for byte.
        const bool watch = d.one_in(3);
        std::vector<std::string> before = watch ? w.states() : std::vector<std::string>{};
        const std::vector<sequence> were = w.seqs;
        sequence_operation(w, d, text);
        if (watch) {
            const std::vector<std::string> after = w.states();
            for (int s = 0; s < SEQUENCES; ++s) {
                const bool same = std::equal(were[s].begin(), were[s].end(), w.seqs[s].begin(), w.seqs[s].end(),
                    [](const auto & x, const auto & y) { return x.first == y.first && x.second.id == y.second.id; });
                h.count.isolation += same;
                if (same && before[s] != after[s]) {
                    throw finding(format("the state of sequence %d changed, and its tokens did not", s));
                }
            }
        }
    } else if (kind < 91) {
        save(h, w, d, text);
    } else if (kind < 97) {
        load(h, w, d, text);
    } else {
        text += "look";
        w.check_tokens();
    }
    h.over = h.over || !w.check_ends();
    if (h.control && d.one_in(20)) {
        forget_in_f16(w, d.pick(0, SEQUENCES - 1), d);
    }
    ++h.count.operations;
}
