#include "cache/plan.h"

#include "format/xq_rotate.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

xq_side xq_key_side(const xq_config & c, double bits, int dk, bool follower) {
    xq_side s{};
    s.rows = xq_key_rows(dk); s.strips = xq_key_strips(dk); s.lanes_last = XQ_LANES;
    s.fit = follower ? c.follower : XQ_FIT_MINMAX;
    if (c.k_alloc == XQ_ALLOC_RANGE) {
        s.meta  = XQ_META_RANKED;
        s.words = std::max(1, (int) std::lround(bits*s.rows/32));
        s.eta   = (float) c.k_eta[1];
        s.eta2  = (float) c.k_eta[2];
    } else {
        s.bits = (int) bits; s.meta = c.k_meta; s.eta = (float) c.k_eta[s.bits];
    }
    return s;
}

xq_side xq_value_side(const xq_config & c, int bits, int dv, bool follower) {
    xq_side s{};
    s.bits = bits; s.rows = XQ_TILE; s.strips = (dv + XQ_LANES - 1) / XQ_LANES;
    s.lanes_last = dv - (s.strips - 1)*XQ_LANES;
    s.meta = c.v_unbiased ? XQ_META_LOG8 : c.v_meta;
    s.rot  = c.v_rotate ? xq_rotate_block(dv) : 0;
    s.fit  = follower ? c.follower : XQ_FIT_MINMAX;
    s.eta  = c.v_unbiased ? 0.0f : (float) c.v_eta[bits];
    return s;
}

std::vector<xq_layer_plan> xq_make_plan(const xq_config & c, const std::vector<xq_layer_shape> & shapes) {
    const int n = (int) shapes.size();
    const int k1 = c.k_1bit_from.resolve(n),  v1 = c.v_1bit_from.resolve(n);
    const int ks = c.k_share_from.resolve(n), vs = c.v_share_from.resolve(n);

    const auto check = [n](const char * name, const xq_layer_bits & of) {
        if (!of.bits.empty() && !of.repeats && (int) of.bits.size() != n) {
            throw std::runtime_error(std::string("xquant: ") + name + " must have one entry for each of the " + std::to_string(n) +
                " packed layers; got " + std::to_string(of.bits.size()) + "; make the plan again for this model");
        }
    };
    check("k_layers", c.k_layers);
    check("v_layers", c.v_layers);

    std::vector<xq_layer_plan> plan;
    for (int i = 0; i < n; ++i) {
        const xq_layer_shape & s = shapes[i];
        const double k_bits = !c.k_layers.bits.empty() ? c.k_layers.at(i) : i >= k1 ? 1 : c.k_bits;
        const int    v_bits = !c.v_layers.bits.empty() ? (int) c.v_layers.at(i) : i >= v1 ? 1 : c.v_bits;
        const bool paired   = i % 2 == 1 && s.can_share(shapes[i - 1]);
        const bool k_follow = paired && i - 1 >= ks && plan[i - 1].k.bits == (int) k_bits;
        const bool v_follow = paired && i - 1 >= vs && plan[i - 1].v.bits == v_bits;
        plan.push_back({
            s, xq_key_side(c, k_bits, s.dk, k_follow), xq_value_side(c, v_bits, s.dv, v_follow),
            k_follow ? shapes[i - 1].il : s.il, v_follow ? shapes[i - 1].il : s.il,
        });
    }
    return plan;
}
