#include "cache/config.h"

#include "cache/text.h"
#include "format/xq_format.h"

#include <cmath>
#include <cstdlib>
#include <optional>
#include <sstream>
#include <stdexcept>

namespace {

[[noreturn]] void refuse(const std::string & key, const std::string & value, const std::string & rule) {
    throw std::runtime_error("xquant: " + key + " must be " + rule + "; got '" + value + "'; correct it where the settings come from (kv=, a flag, or XQUANT_KV)");
}

int parse_int(const std::string & key, const std::string & value, int lo, int hi, const std::string & rule) {
    char * end = nullptr;
    const long v = std::strtol(value.c_str(), &end, 10);
    if (value.empty() || *end || v < lo || v > hi) {
        refuse(key, value, rule);
    }
    return (int) v;
}

double parse_key_bits(const std::string & key, const std::string & value) {
    double v = 0;
    if (!xq_read_number(value, v) || !(v >= 0.5 && v <= 8.0)) {
        refuse(key, value, "a number of bits from 0.5 to 8");
    }
    return v;
}

// "2/1.5/3": bits by layer; "2/1*": a pattern that repeats; "-1": none.
xq_layer_bits parse_layers(const std::string & key, const std::string & value, bool whole) {
    xq_layer_bits out;
    if (value == "-1") {
        return out;
    }
    out.repeats = !value.empty() && value.back() == '*';
    std::stringstream in(value.substr(0, value.size() - out.repeats));
    std::string item;
    while (std::getline(in, item, '/')) {
        out.bits.push_back(whole ? parse_int(key, item, 1, 4, "1, 2, 3 or 4 for each layer") : parse_key_bits(key, item));
    }
    if (out.bits.empty()) {
        refuse(key, value, "bits of every packed layer such as 2/2/3, a pattern such as 2/1*, or -1");
    }
    return out;
}

double parse_eta(const std::string & key, const std::string & value) {
    double v = 0;
    if (!xq_read_number(value, v) || !(v >= 0.0 && v <= 0.5)) {
        refuse(key, value, "a number in [0, 0.5]");
    }
    return v;
}

xq_threshold parse_threshold(const std::string & key, const std::string & value, bool even) {
    const std::string rule = std::string("-1 (never), ") + (even ? "an even" : "a") +
        " layer index, or a fraction of depth in [0, 1) such as 0.5";
    xq_threshold t;
    if (value.find('.') != std::string::npos) {
        if (!xq_read_number(value, t.fraction) || !(t.fraction >= 0.0 && t.fraction < 1.0)) {
            refuse(key, value, rule);
        }
        return t;
    }
    t.layer = parse_int(key, value, -1, 1 << 16, rule);
    if (even && t.layer >= 0 && t.layer % 2 != 0) {
        refuse(key, value, rule);
    }
    return t;
}

int parse_choice(const std::string & key, const std::string & value, const char * a, const char * b) {
    if (value == a) { return 0; }
    if (value == b) { return 1; }
    refuse(key, value, std::string(a) + " or " + b);
}

int parse_tiles(const std::string & key, const std::string & value) {
    const std::string rule = "a positive multiple of 32";
    const int v = parse_int(key, value, XQ_TILE, 1 << 20, rule);
    if (v % XQ_TILE != 0) {
        refuse(key, value, rule);
    }
    return v;
}

std::string number(double v) { return xq_number(v, 9); }

// What one setting says about another.
void check(const xq_config & c) {
    const auto uniform = [](double bits) { return bits == 1 || bits == 2 || bits == 3 || bits == 4; };
    if (c.k_alloc == XQ_ALLOC_UNIFORM) {
        if (!uniform(c.k_bits)) {
            refuse("k_bits", number(c.k_bits), "1, 2, 3 or 4 with k_alloc=uniform");
        }
        for (const double bits : c.k_layers.bits) {
            if (!uniform(bits)) {
                refuse("k_layers", number(bits), "1, 2, 3 or 4 with k_alloc=uniform");
            }
        }
    }
    const auto shares = [](const xq_threshold & t) { return t.layer >= 0 || t.fraction >= 0.0; };
    if (c.k_alloc == XQ_ALLOC_RANGE && (shares(c.k_share_from) || c.k_1bit_from.layer >= 0 || c.k_1bit_from.fraction >= 0.0)) {
        refuse("k_alloc", "range", "uniform where keys have k_share_from or k_1bit_from");
    }
    const auto lists = [](const xq_layer_bits & layers) { return !layers.bits.empty() && !layers.repeats; };
    if (c.swa == XQ_SWA_PACKED && (lists(c.k_layers) || lists(c.v_layers))) {
        refuse("swa", "packed", "f16 where k_layers or v_layers list the layers one by one");
    }
    if (c.v_unbiased && shares(c.v_share_from)) {
        refuse("v_fit", "unbiased", "minmax where values share codes (v_share_from)");
    }
}

thread_local std::optional<std::string> thread_text;

} // namespace

int xq_threshold::resolve(int n_layers) const {
    if (fraction >= 0.0) {
        return (int) std::floor(fraction*n_layers) / 2 * 2;
    }
    return layer < 0 ? n_layers : layer;
}

std::string xq_layer_bits::text() const {
    std::string s;
    for (const double v : bits) {
        s += (s.empty() ? "" : "/") + number(v);
    }
    return s.empty() ? "-1" : s + (repeats ? "*" : "");
}

std::string xq_threshold::text() const {
    if (fraction < 0.0) {
        return std::to_string(layer);
    }
    const std::string s = number(fraction);
    return s.find('.') == std::string::npos ? s + ".0" : s;
}

xq_config xq_config_parse(const std::string & text) {
    xq_config c;
    std::stringstream in(text);
    std::string item;
    while (std::getline(in, item, ',')) {
        if (item.empty()) {
            continue;
        }
        const size_t eq = item.find('=');
        const std::string key = item.substr(0, eq), value = eq == std::string::npos ? "" : item.substr(eq + 1);
        if      (key == "k_bits")       { c.k_bits = parse_key_bits(key, value); }
        else if (key == "v_bits")       { c.v_bits = parse_int(key, value, 1, 4, "1, 2, 3 or 4"); }
        else if (key == "k_layers")     { c.k_layers = parse_layers(key, value, false); }
        else if (key == "v_layers")     { c.v_layers = parse_layers(key, value, true); }
        else if (key == "k_alloc")      { c.k_alloc    = parse_choice(key, value, "uniform", "range"); }
        else if (key == "k_metric")     { c.k_metric   = parse_choice(key, value, "none", "queries"); }
        else if (key == "v_fit")        { c.v_unbiased = parse_choice(key, value, "minmax", "unbiased") == 1; }
        else if (key == "v_rot")        { c.v_rotate   = parse_choice(key, value, "none", "hadamard") == 1; }
        else if (key == "k_1bit_from")  { c.k_1bit_from  = parse_threshold(key, value, false); }
        else if (key == "v_1bit_from")  { c.v_1bit_from  = parse_threshold(key, value, false); }
        else if (key == "k_share_from") { c.k_share_from = parse_threshold(key, value, true); }
        else if (key == "v_share_from") { c.v_share_from = parse_threshold(key, value, true); }
        else if (key == "window")       { c.window = parse_tiles(key, value); }
        else if (key == "max_ubatch")   { c.max_ubatch = parse_tiles(key, value); }
        else if (key == "sink")         { c.sink = parse_int(key, value, 0, 1 << 16, "a number of tokens, 0 or more"); }
        else if (key == "k_meta")       { c.k_meta = parse_choice(key, value, "f16", "q8"); }
        else if (key == "v_meta")       { c.v_meta = parse_choice(key, value, "f16", "q8"); }
        else if (key == "follower")     { c.follower = parse_choice(key, value, "minmax", "ls"); }
        else if (key == "swa")          { c.swa = parse_choice(key, value, "f16", "packed"); }
        else if (key.size() == 6 && (key.compare(0, 5, "k_eta") == 0 || key.compare(0, 5, "v_eta") == 0) && key[5] >= '1' && key[5] <= '4') {
            (key[0] == 'k' ? c.k_eta : c.v_eta)[key[5] - '0'] = parse_eta(key, value);
        } else {
            throw std::runtime_error("xquant: a setting must exist; got '" + key + "'; known are k_bits, v_bits, k_layers, v_layers, k_alloc, k_metric, v_fit, v_rot, k_1bit_from, "
                "v_1bit_from, k_share_from, v_share_from, window, sink, k_eta1..4, v_eta1..4, k_meta, v_meta, "
                "follower, max_ubatch, swa");
        }
    }
    check(c);
    return c;
}

std::string xq_config::codes_text() const {
    xq_text s;
    const auto meta = [](int m) { return m == XQ_META_F16 ? "f16" : "q8"; };
    s << "k_bits=" << number(k_bits) << ",v_bits=" << v_bits
      << ",k_layers=" << k_layers.text() << ",v_layers=" << v_layers.text()
      << ",k_alloc=" << (k_alloc == XQ_ALLOC_RANGE ? "range" : "uniform")
      << ",k_metric=" << (k_metric == XQ_METRIC_QUERIES ? "queries" : "none") << ",v_fit=" << (v_unbiased ? "unbiased" : "minmax")
      << ",v_rot=" << (v_rotate ? "hadamard" : "none")
      << ",k_1bit_from="  << k_1bit_from.text()  << ",v_1bit_from="  << v_1bit_from.text()
      << ",k_share_from=" << k_share_from.text() << ",v_share_from=" << v_share_from.text()
      << ",window=" << window << ",sink=" << sink;
    for (int b = 1; b <= 4; ++b) {
        s << ",k_eta" << b << '=' << number(k_eta[b]) << ",v_eta" << b << '=' << number(v_eta[b]);
    }
    s << ",k_meta=" << meta(k_meta) << ",v_meta=" << meta(v_meta)
      << ",follower=" << (follower == XQ_FIT_LS ? "ls" : "minmax") << ",max_ubatch=" << max_ubatch;
    return s.str();
}

void xq_config_set_thread(const char * text) {
    if (text) {
        xq_config_parse(text); // refuse now, not at the next context
        thread_text = text;
    } else {
        thread_text.reset();
    }
}

xq_config xq_config_current() {
    if (thread_text) {
        return xq_config_parse(*thread_text);
    }
    const char * env = std::getenv("XQUANT_KV");
    return xq_config_parse(env ? env : "");
}
