// Settings and the layer plan that follows from them.
#include "cache/config.h"
#include "cache/plan.h"

#include "check.h"

#include <stdexcept>
#include <string>
#include <vector>

namespace {

// The message with which a setting is refused, "" if it is not.
std::string refusal(const std::string & text) {
    try {
        xq_config_parse(text);
    } catch (const std::runtime_error & e) {
        return e.what();
    }
    return "";
}

bool has(const std::string & text, const std::string & part) { return text.find(part) != std::string::npos; }

std::vector<xq_layer_plan> plan_of(const std::string & text, int n_layers) {
    std::vector<xq_layer_shape> shapes;
    for (int i = 0; i < n_layers; ++i) {
        shapes.push_back({10 + i, 2, 64, 80});
    }
    return xq_make_plan(xq_config_parse(text), shapes);
}

void defaults() {
    const xq_config c = xq_config_parse("");
    CHECK(c.k_bits == 2 && c.v_bits == 2 && c.window == 128 && c.sink == 4 && c.max_ubatch == 256);
    CHECK(c.k_metric == XQ_METRIC_QUERIES);
    CHECK(c.k_alloc == XQ_ALLOC_RANGE && c.v_unbiased && c.v_rotate && c.k_layers.bits.empty() && c.v_layers.bits.empty());
    CHECK(c.k_meta == XQ_META_Q8 && c.v_meta == XQ_META_Q8 && c.follower == XQ_FIT_MINMAX);
    CHECK(c.k_1bit_from.layer == -1 && c.v_share_from.layer == -1);
    CHECK(xq_config_parse(c.text()).text() == c.text());
}

void every_setting() {
    const std::string text =
        "k_bits=3,v_bits=4,k_layers=2/3,v_layers=1/4*,k_alloc=uniform,k_metric=none,v_fit=minmax,v_rot=none,k_1bit_from=5,v_1bit_from=0.5,k_share_from=4,v_share_from=0.75,window=64,sink=0,k_eta1=0.25,v_eta1=0,"
        "k_eta2=0.5,v_eta2=0.125,k_eta3=0.01,v_eta3=0.02,k_eta4=0.03,v_eta4=0.04,k_meta=f16,v_meta=q8,follower=ls,max_ubatch=32,swa=f16";
    const xq_config c = xq_config_parse(text);
    CHECK(c.text() == text, c.text());
    CHECK(c.k_bits == 3 && c.v_bits == 4 && c.window == 64 && c.sink == 0 && c.max_ubatch == 32);
    CHECK(c.k_metric == XQ_METRIC_NONE);
    CHECK(c.k_alloc == XQ_ALLOC_UNIFORM && !c.v_unbiased && !c.v_rotate);
    CHECK(c.k_layers.bits == std::vector<double>({2, 3}) && c.v_layers.bits == std::vector<double>({1, 4}));
    CHECK(c.k_1bit_from.layer == 5 && c.v_1bit_from.fraction == 0.5 && c.v_share_from.fraction == 0.75);
    CHECK(c.k_eta[1] == 0.25 && c.k_eta[2] == 0.5 && c.v_eta[4] == 0.04);
    CHECK(c.k_meta == XQ_META_F16 && c.v_meta == XQ_META_Q8 && c.follower == XQ_FIT_LS);
    CHECK(xq_config_parse("k_bits=1,k_bits=4").k_bits == 4); // the last one counts
    CHECK(xq_config_parse(",k_bits=1,,").k_bits == 1);
}

// A refusal names the setting, what it got and what it takes.
void refusals() {
    for (const char * text : {
            "k_bits=0", "k_bits=8.5", "v_bits=-1", "v_bits=2.0", "k_bits=two", "k_bits=nan", "k_bits=", "k_bits", "k_bits=2x", "window=0", "window=31",
            "window=33", "window=-32", "window=99999999", "max_ubatch=16", "max_ubatch=48", "sink=-1", "sink=x", "k_meta=f32", "v_meta=",
            "follower=mean", "k_eta1=-0.1", "v_eta4=0.51", "k_eta2=nan", "k_eta2=", "k_1bit_from=-2", "k_1bit_from=1.0", "v_1bit_from=x",
            "v_1bit_from=-0.5", "k_share_from=3", "v_share_from=1.5", "v_share_from=.x", "k_bits=99999999999999999999", "k_layers=", "k_layers=*", "k_layers=x", "v_layers=5", "v_layers=1.5", "k_alloc=greedy", "k_metric=", "k_metric=keys", "v_fit=ls",
            "v_rot=random"}) {
        const std::string setting = text, why = refusal(setting);
        const std::string key = setting.substr(0, setting.find('='));
        const std::string value = has(setting, "=") ? setting.substr(setting.find('=') + 1) : "";
        CHECK(has(why, "xquant: " + key + " must be "), text, why);
        CHECK(has(why, "got '" + value + "'"), text, why);
    }
    for (const char * text : {"bits=2", "k_eta0=0", "k_eta5=0", "K_BITS=2", " k_bits=2", "=2"}) {
        const std::string why = refusal(text);
        CHECK(has(why, "a setting must exist") && has(why, "k_bits"), text, why);
    }
}

// A setting may be right alone and wrong beside another one.
void settings_that_exclude_each_other() {
    const char * uniform = "k_alloc=uniform,v_fit=minmax,";
    for (const char * text : {"k_share_from=0", "k_share_from=0.5", "k_1bit_from=3", "v_share_from=0", "v_share_from=0.0"}) {
        CHECK(has(refusal(text), "must be"), text);
        CHECK(refusal(std::string(uniform) + text).empty(), text);
    }
    CHECK(has(refusal("k_alloc=uniform,k_bits=1.5"), "k_bits must be 1, 2, 3 or 4 with k_alloc=uniform; got '1.5'"));
    CHECK(has(refusal("k_alloc=uniform,k_layers=2/5"), "k_layers must be"));
    CHECK(refusal("v_1bit_from=3").empty()); // unbiased values may change bits
}

void thresholds() {
    const auto at = [](const char * value, int n) { return xq_config_parse(std::string("k_alloc=uniform,k_1bit_from=") + value).k_1bit_from.resolve(n); };
    CHECK(at("-1", 30) == 30);
    CHECK(at("0", 30) == 0);
    CHECK(at("7", 30) == 7);
    CHECK(at("99", 30) == 99);    // beyond the last layer: never
    CHECK(at("0.5", 30) == 14);   // 15, rounded down to an even layer
    CHECK(at("0.5", 32) == 16);
    CHECK(at("0.0", 32) == 0);
    CHECK(at("0.99", 32) == 30);
    CHECK(at("0.5", 1) == 0);
}

void bits_by_layer() {
    const auto plan = plan_of("k_alloc=uniform,v_fit=minmax,v_rot=none,k_bits=4,v_bits=3,k_1bit_from=3,v_1bit_from=0.5,k_eta1=0.2,k_eta4=0.1,k_meta=f16", 6);
    for (int i = 0; i < 6; ++i) {
        CHECK(plan[i].k.bits == (i >= 3 ? 1 : 4), i);
        CHECK(plan[i].v.bits == (i >= 2 ? 1 : 3), i);
        CHECK(plan[i].k.eta == (i >= 3 ? 0.2f : 0.1f), i);
        CHECK(plan[i].k_leader == 10 + i && plan[i].v_leader == 10 + i, i);
        CHECK(plan[i].k.meta == XQ_META_F16 && plan[i].v.meta == XQ_META_Q8, i);
        CHECK(plan[i].k.rows == 64 && plan[i].k.strips == 1 && plan[i].k.lanes_last == 32, i);
        CHECK(plan[i].v.rows == 32 && plan[i].v.strips == 3 && plan[i].v.lanes_last == 16, i);
    }
}

// Ranked keys: whole words, spread over the channels by range. Unbiased values: rotated in blocks that fit.
void the_better_method() {
    const auto plan = plan_of("k_bits=1.5,v_bits=1,k_layers=1.5/2/4.5,v_layers=1/2/4,k_eta1=0.25,k_eta2=0.0625", 3);
    const int words[] = {3, 4, 9}, v_bits[] = {1, 2, 4};
    for (int i = 0; i < 3; ++i) {
        CHECK(plan[i].k.meta == XQ_META_RANKED && plan[i].k.bits == 0 && plan[i].k.words == words[i], i);
        CHECK(plan[i].k.eta == 0.25f && plan[i].k.eta2 == 0.0625f, i);
        CHECK(plan[i].v.meta == XQ_META_LOG8 && plan[i].v.bits == v_bits[i], i);
        CHECK(plan[i].v.rot == 16 && plan[i].v.strips == 3 && plan[i].v.lanes_last == 16, i); // a head dim of 80
        CHECK(xq_head_meta_bytes(plan[i].k) == 20 + 16 + 32 + 64 && xq_head_meta_bytes(plan[i].v) == 2*36, i);
        CHECK(xq_head_words(plan[i].k) == 32*words[i] && xq_head_words(plan[i].v) == 3*32*v_bits[i], i);
    }
    const auto pattern = plan_of("v_layers=2/1/2*", 7);
    for (int i = 0; i < 7; ++i) {
        CHECK(pattern[i].v.bits == (i % 3 == 1 ? 1 : 2), i);
    }
    std::string why;
    try {
        plan_of("k_layers=2/2", 3);
    } catch (const std::runtime_error & e) {
        why = e.what();
    }
    CHECK(has(why, "k_layers must have one entry for each of the 3 packed layers; got 2"), why);
}

void sharing() {
    const auto plan = plan_of("k_alloc=uniform,v_fit=minmax,k_share_from=2,v_share_from=0.5,follower=ls", 7);
    for (int i = 0; i < 7; ++i) {
        const bool k = i % 2 == 1 && i >= 2, v = i % 2 == 1 && i >= 2; // half of 7 layers is 3, rounded down to 2
        CHECK(plan[i].k_leader == 10 + i - k && plan[i].v_leader == 10 + i - v, i);
        CHECK(plan[i].k.fit == (k ? XQ_FIT_LS : XQ_FIT_MINMAX), i);
    }
}

// One strip up to 256 channels, two beyond: as few rows as hold all channels, in multiples of 8.
void strips_of_keys() {
    for (int d = 0; d <= 600; ++d) {
        CHECK((xq_head_dim_fits(d) != 0) == (d >= 32 && d <= 576 && d % 8 == 0), d);
        if (!xq_head_dim_fits(d)) {
            continue;
        }
        for (const char * text : {"k_alloc=uniform,k_bits=3", "k_bits=2", "k_bits=0.5", "k_bits=8"}) {
            const xq_config c = xq_config_parse(text);
            const xq_side s = xq_key_side(c, c.k_bits, d, false);
            CHECK(s.strips == (d + 255)/256 && s.rows <= XQ_MAX_ROWS && s.rows % 8 == 0, d, text);
            CHECK(s.strips*s.rows >= d && s.strips*s.rows < d + 8*s.strips, d, text);
            CHECK(s.strips*s.rows <= xq_query_floats(d) && d <= xq_query_floats(d), d, text);
            CHECK(s.strips > 1 || s.rows == d, d, text);
            CHECK(xq_head_words(s) == s.strips*xq_side_words(s), d, text);
            CHECK(xq_head_meta_bytes(s) == s.strips*xq_meta_bytes(s.rows, s.meta), d, text);
        }
    }
}

// Codes are read at the bits and in the shape they were written with.
void pairs_that_do_not_match() {
    const xq_config all = xq_config_parse("k_alloc=uniform,v_fit=minmax,k_share_from=0,v_share_from=0");
    const auto shapes = xq_make_plan(all, {{0, 2, 64, 64}, {1, 4, 64, 64}, {2, 2, 64, 64}, {3, 2, 64, 32}, {6, 2, 64, 64}, {9, 2, 64, 64}});
    const int leaders[] = {0, 1, 2, 3, 6, 6};
    for (int i = 0; i < 6; ++i) {
        CHECK(shapes[i].k_leader == leaders[i] && shapes[i].v_leader == leaders[i], i);
    }
    const int here = 0, there = 0;
    const auto placed = xq_make_plan(all, {{0, 2, 64, 64, 4, &here}, {1, 2, 64, 64, 4, &here}, {2, 2, 64, 64, 4, &here}, {3, 2, 64, 64, 4, &there}});
    CHECK(placed[1].k_leader == 0 && placed[1].v_leader == 0);
    CHECK(placed[3].k_leader == 3 && placed[3].v_leader == 3); // its partner lies on another device
    const auto cut = plan_of("k_alloc=uniform,v_fit=minmax,k_share_from=0,v_share_from=0,k_1bit_from=3,v_1bit_from=2", 4);
    CHECK(cut[1].k_leader == 10 && cut[1].v_leader == 10);
    CHECK(cut[3].k_leader == 13); // its partner has 2 bits
    CHECK(cut[3].v_leader == 12);
    const auto one_bit = plan_of("k_alloc=uniform,k_bits=1,k_share_from=0,k_1bit_from=1", 2);
    CHECK(one_bit[1].k_leader == 10); // 1 bit on both sides of the threshold
    CHECK(xq_make_plan(all, {}).empty());
}

void settings_of_a_thread() {
    xq_config_set_thread("k_bits=4");
    CHECK(xq_config_current().k_bits == 4);
    bool refused = false;
    try {
        xq_config_set_thread("k_bits=9");
    } catch (const std::runtime_error &) {
        refused = true;
    }
    CHECK(refused && xq_config_current().k_bits == 4); // the old ones stay
    xq_config_set_thread(nullptr);
    CHECK(xq_config_current().text() == xq_config_parse("").text());
}

} // namespace

int main() {
    defaults();
    every_setting();
    refusals();
    settings_that_exclude_each_other();
    the_better_method();
    thresholds();
    bits_by_layer();
    sharing();
    strips_of_keys();
    pairs_that_do_not_match();
    settings_of_a_thread();
    return check_report();
}
