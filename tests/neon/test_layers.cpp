// Sealing and attention of a layer, of tiles in every form, against sums in f64.
#include "strips.h"

#include "kernels/cpu/attend.h"
#include "reference/reference.h"

#include <vector>

namespace {

struct shape {
    int dk, dv, group, tokens, n_kv;
    xq_side k, v;
    int kind = NORMAL;
    float softcap = 0, max_bias = 0;
    bool sinks = false, holes = false, parts = false, spoilt = false; // spoilt: a hidden cell of every page is not finite
    double budget = BUDGET_ATTENTION;
};

// One stream of tiles in every form: sealed, on a page, both, empty. Sealed by the implementation out of pages.
void layer_once(const xq_cpu_kernels & k, const shape & s, uint64_t seed) {
    constexpr int HEADS = 2;
    dice rng(seed);
    const int tiles = (s.n_kv + 31)/32, n_head = HEADS*s.group;
    xq_layer_view L{};
    L.dk = s.dk; L.dv = s.dv; L.n_head_kv = HEADS; L.k = s.k; L.v = s.v;
    fenced<uint32_t> k_codes((size_t) tiles*HEADS*xq_head_words(s.k), ALL), v_codes((size_t) tiles*HEADS*xq_head_words(s.v), ALL);
    fenced<uint8_t> k_meta((size_t) tiles*HEADS*xq_head_meta_bytes(s.k), 0xFF), v_meta((size_t) tiles*HEADS*xq_head_meta_bytes(s.v), 0xFF);
    fenced<uint16_t> k_pages((size_t) tiles*XQ_TILE*HEADS*s.dk), v_pages((size_t) tiles*XQ_TILE*HEADS*s.dv);
    for (size_t i = 0; i < k_pages.size(); ++i) {
        k_pages[i] = ggml_fp32_to_fp16(value_of(rng, s.kind, (int) (i % s.dk)));
    }
    for (size_t i = 0; i < v_pages.size(); i += s.dv) {
        std::vector<float> row(s.dv);
        for (int c = 0; c < s.dv; ++c) {
            row[c] = value_of(rng, s.kind, c);
        }
        if (s.v.rot) {
            xq_ref_rotate(row.data(), s.dv, s.v.rot);
        }
        for (int c = 0; c < s.dv; ++c) {
            v_pages[i + c] = ggml_fp32_to_fp16(row[c]);
        }
    }
    L.k_codes = k_codes.data(); L.v_codes = v_codes.data(); L.k_meta = k_meta.data(); L.v_meta = v_meta.data();
    L.k_pages = k_pages.data(); L.v_pages = v_pages.data();
    L.k_row = (size_t) HEADS*s.dk; L.v_row = (size_t) HEADS*s.dv;
    L.k_leads = L.v_leads = true;

    // the table: queries at the last positions; form of tile t: 0 sealed, 1 page, 2 both, 3 neither
    std::vector<int32_t> table(xq_table_tiles_at(s.tokens)), seals;
    std::vector<uint32_t> cells(tiles, ALL);
    std::vector<int> form(tiles);
    const int first = s.n_kv - s.tokens;
    for (int t = 0; t < s.tokens; ++t) {
        table[XQ_TABLE_HEAD + t] = first + t;
    }
    for (int t = 0; t < tiles; ++t) {
        static const int forms[] = {0, 1, 2, 3, 0, 2};
        form[t] = forms[(t + seed) % 6];
        cells[t] = s.holes ? rng.bits() | 32u : ALL;
        table.push_back(form[t] == 1 || form[t] == 2 ? t : -1);
        table.push_back(form[t] == 0 || form[t] == 2 ? first + rng.below(s.tokens + 1) : XQ_NOT_SEALED);
        if (form[t] == 0 || form[t] == 2) {
            seals.insert(seals.end(), {0, t, t, (int32_t) cells[t]});
        }
    }
    table[1] = tiles;
    table[2] = (int32_t) table.size();
    table[3] = (int32_t) seals.size()/XQ_SEAL_INTS;
    table.insert(table.end(), seals.begin(), seals.end());

    fenced<uint32_t> want_k(k_codes), want_v(v_codes);
    fenced<uint8_t> want_km(k_meta), want_vm(v_meta);
    xq_layer_view R = L;
    R.k_codes = want_k.data(); R.v_codes = want_v.data(); R.k_meta = want_km.data(); R.v_meta = want_vm.data();
    xq_seal_tiles(xq_kernels_generic, R, table.data(), 0, 1); // which seals with the reference
    xq_seal_tiles(k, L, table.data(), 0, 1);
    CHECK(k_codes == want_k && k_meta == want_km, "keys differ");
    CHECK(v_codes == want_v && v_meta == want_vm, "values differ");
    into_digest(k_codes); into_digest(k_meta); into_digest(v_codes); into_digest(v_meta);

    // queries and mask
    fenced<float> q((size_t) s.tokens*n_head*s.dk), sinks(n_head), out((size_t) s.tokens*n_head*s.dv, NAN);
    for (size_t i = 0; i < q.size(); ++i) {
        q[i] = rng.normal();
    }
    for (int h = 0; h < n_head; ++h) {
        sinks[h] = rng.normal();
    }
    fenced<uint16_t> mask((size_t) s.tokens*s.n_kv);
    for (int t = 0; t < s.tokens; ++t) {
        for (int c = 0; c < s.n_kv; ++c) {
            const bool hidden = c > first + t || (s.spoilt && c % XQ_TILE == 7) || !(cells[c/32] >> c%32 & 1) || (s.holes && rng.below(10) == 0);
            mask[t*s.n_kv + c] = hidden ? 0xFC00 : s.max_bias > 0 ? ggml_fp32_to_fp16(-(float) (first + t - c)) : 0;
        }
    }
    for (int t = 0; s.spoilt && t < tiles; ++t) { // from here on: what was sealed is clean
        std::fill_n(k_pages.data() + (t*XQ_TILE + 7)*L.k_row, L.k_row, (uint16_t) 0x7E00);
        std::fill_n(v_pages.data() + (t*XQ_TILE + 7)*L.v_row, L.v_row, (uint16_t) (t % 2 ? 0x7E00 : 0x7C00));
    }
    xq_attend_args a{};
    a.layer = L;
    a.q = q.data(); a.q_head = s.dk; a.q_token = (size_t) n_head*s.dk;
    a.mask = mask.data(); a.mask_token = s.n_kv; a.mask_stream = (size_t) s.n_kv*s.tokens;
    a.table = table.data();
    a.sinks = s.sinks ? sinks.data() : nullptr;
    a.n_head = n_head; a.n_tokens = s.tokens; a.n_stream = 1; a.n_kv = s.n_kv;
    a.scale = 1/std::sqrt((float) s.dk); a.softcap = s.softcap; a.max_bias = s.max_bias;
    a.n_parts = s.parts ? (s.n_kv + XQ_TILE*XQ_CHUNK_TILES - 1)/(XQ_TILE*XQ_CHUNK_TILES) : 1;
    if (a.n_parts > 1) {
        fenced<float> parts((size_t) a.n_parts*s.tokens*n_head*(s.dv + 2), NAN);
        a.out = parts.data();
        xq_attend(k, a, 0, 2);
        xq_attend(k, a, 1, 2);
        xq_combine(k, parts.data(), out.data(), a.sinks, s.dv, s.v.rot, n_head, s.tokens, a.n_parts, 0, 1);
        fenced<float> whole(out.size(), NAN);
        a.out = whole.data();
        a.n_parts = 1;
        xq_attend(k, a, 0, 1);
        CHECK(whole == out, "parts and whole rows differ");
    } else {
        a.out = out.data();
        xq_attend(k, a, 0, 1);
    }

    // what must come out
    double error = 0, power = 0;
    for (int h = 0; h < HEADS; ++h) {
        std::vector<std::vector<float>> keys(3), values(3); // by form of reading
        for (int read : {XQ_READ_PAGE, XQ_READ_CODES}) {
            keys[read].assign((size_t) tiles*XQ_TILE*s.dk, 0.0f);
            values[read].assign((size_t) tiles*XQ_TILE*s.dv, 0.0f);
        }
        std::vector<float> strip((size_t) XQ_MAX_ROWS*XQ_LANES);
        for (int t = 0; t < tiles; ++t) {
            for (int c = 0; c < XQ_TILE; ++c) {
                for (int i = 0; i < s.dk; ++i) {
                    keys[XQ_READ_PAGE][(t*XQ_TILE + c)*s.dk + i] = ggml_fp16_to_fp32(k_pages[(t*XQ_TILE + c)*L.k_row + h*s.dk + i]);
                }
                for (int i = 0; i < s.dv; ++i) {
                    values[XQ_READ_PAGE][(t*XQ_TILE + c)*s.dv + i] = ggml_fp16_to_fp32(v_pages[(t*XQ_TILE + c)*L.v_row + h*s.dv + i]);
                }
            }
            if (form[t] != 0 && form[t] != 2) {
                continue;
            }
            for (int g = 0; g < s.k.strips; ++g) {
                const uint32_t * codes = R.k_tile(0, t, h) + (size_t) g*xq_side_words(s.k);
                xq_ref_unpack_strip(s.k, codes, R.k_tile_meta(0, t, h) + xq_meta_at(s.k, g), strip.data());
                for (int i = 0; i < s.k.rows*XQ_TILE; ++i) {
                    const int channel = g*s.k.rows + i/XQ_TILE;
                    if (channel < s.dk) {
                        keys[XQ_READ_CODES][(t*XQ_TILE + i%XQ_TILE)*s.dk + channel] = strip[i];
                    }
                }
            }
            for (int g = 0; g < s.v.strips; ++g) {
                xq_ref_unpack_strip(s.v, R.v_tile(0, t, h) + (size_t) g*xq_side_words(s.v), R.v_tile_meta(0, t, h) + xq_meta_at(s.v, g), strip.data());
                for (int i = 0; i < XQ_TILE*XQ_LANES; ++i) {
                    const int channel = g*XQ_LANES + i%XQ_LANES;
                    if (channel < s.dv) {
                        values[XQ_READ_CODES][(t*XQ_TILE + i/XQ_LANES)*s.dv + channel] = strip[i];
                    }
                }
            }
        }
        std::vector<float> ks, vs, ms, want(s.dv);
        for (int t = 0; t < s.tokens; ++t) {
            for (int r = 0; r < s.group; ++r) {
                const int head = h*s.group + r;
                const int n2 = 1 << (int) std::floor(std::log2((float) n_head));
                const double slope = s.max_bias <= 0 ? 1 : head < n2 ? std::pow(2.0, -s.max_bias*(head + 1)/n2)
                                                                     : std::pow(2.0, -s.max_bias*0.5*(2*(head - n2) + 1)/n2);
                ks.clear(); vs.clear(); ms.clear();
                for (int c = 0; c < s.n_kv; ++c) {
                    const int32_t * e = &table[xq_table_tiles_at(s.tokens) + c/32*XQ_TILE_INTS];
                    const int read = xq_tile_read(e[0], e[1], first + t);
                    if (read == XQ_READ_NONE || mask[t*s.n_kv + c] == 0xFC00) {
                        continue;
                    }
                    ks.insert(ks.end(), &keys[read][c*s.dk], &keys[read][c*s.dk] + s.dk);
                    vs.insert(vs.end(), &values[read][c*s.dv], &values[read][c*s.dv] + s.dv);
                    ms.push_back((float) (slope*ggml_fp16_to_fp32(mask[t*s.n_kv + c])));
                }
                const size_t row = (size_t) t*n_head + head;
                xq_ref_attend(q.data() + row*s.dk, ks.data(), vs.data(), ms.data(), (int) ms.size(), s.dk, s.dv, a.scale, s.softcap,
                              s.sinks ? sinks[head] : -INF, want.data());
                if (s.v.rot) {
                    xq_ref_rotate(want.data(), s.dv, s.v.rot);
                }
                for (int i = 0; i < s.dv; ++i) {
                    const double d = (double) out[row*s.dv + i] - want[i];
                    error += d*d;
                    power += (double) want[i]*want[i];
                }
            }
        }
    }
    near(s.budget == BUDGET_ATTENTION ? "attention" : s.budget == BUDGET_ATTENTION_SHARP ? "attention, sharp" : "attention, outlier", error, power, s.budget);
    ++cases;
}

} // namespace

void test_layers(const xq_cpu_kernels & k) {
    constexpr int GROUPS[] = {1, 2, 3, 7, 8};
    constexpr int TOKENS[] = {1, 2, 5, 1, 20, 3, 1};
    constexpr int CELLS[]  = {100, 161, 230, 64, 290};
    constexpr int WIDE[]   = {264, 320, 576, 512}; // of two strips and of three
    constexpr int KINDS[]  = {NORMAL, SPREAD, NORMAL, CONSTANT, OUTLIER, TINY, NORMAL, HUGE_VALUES};
    for (int i = 0; i < 120; ++i) {
        shape s{};
        s.dk = DIMS[i % 9];
        s.dv = i % 4 == 3 ? DIMS[(i + 4) % 9] : s.dk;
        if (i % 10 == 9) {
            s.dk = WIDE[i/10 % 4];
            s.dv = i % 4 == 3 ? s.dv : WIDE[i/20 % 4];
        }
        s.group  = GROUPS[i % 5];
        s.tokens = TOKENS[i % 7];
        s.n_kv   = CELLS[(i + i/5) % 5];
        if (i % 3 == 0) { // equal widths
            s.k = uniform_side(xq_key_rows(s.dk), 1 + i/3 % 4, i % 2 ? XQ_META_F16 : XQ_META_Q8);
        } else {
            const float bits[] = {1.0f, 1.7f, 2.3f, 3.0f, 4.5f, 6.0f, 8.0f};
            const int rows = xq_key_rows(s.dk);
            s.k = ranked_side(rows, std::max(1, (int) (bits[i/2 % 7]*(float) rows/32 + 0.5f)));
        }
        s.k.strips = xq_key_strips(s.dk);
        const int v_bits = 1 + i/2 % 4;
        s.v = i % 5 < 2 ? values_side(s.dv, v_bits, i % 2 ? XQ_META_Q8 : XQ_META_F16, i % 7 == 0) : values_side(s.dv, v_bits, XQ_META_LOG8, true);
        s.kind     = KINDS[i % 8];
        s.softcap  = i % 11 == 5 ? 30.0f : 0.0f;
        s.max_bias = i % 13 == 6 ? 8.0f : 0.0f;
        s.sinks    = i % 6 == 4;
        s.holes    = i % 7 == 2;
        s.spoilt   = i % 3 == 1;
        s.parts    = s.n_kv > 256 && s.tokens < 5;
        // as in tests/kernels: huge keys make logits of ten thousands there too
        s.budget = s.kind == OUTLIER ? BUDGET_REQUIRED : s.kind == SPREAD ? BUDGET_ATTENTION_SHARP : BUDGET_ATTENTION;
        check_context = check_text(k.name, "layer", i, "dk", s.dk, "dv", s.dv, "group", s.group, "tokens", s.tokens, "n_kv", s.n_kv, KIND_NAMES[s.kind],
                                   "k bits", s.k.bits, "words", s.k.words, "v bits", s.v.bits, "meta", s.v.meta);
        layer_once(k, s, 1000 + i);
    }
}
