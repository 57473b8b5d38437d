#include "cache/plan.h"

xq_side xq_key_side(const xq_config & c, int bits, int dk, bool follower) {
    xq_side s{};
    s.bits = bits; s.meta = c.k_meta; s.rows = dk; s.strips = 1; s.lanes_last = XQ_LANES;
    s.fit = follower ? c.follower : XQ_FIT_MINMAX;
    s.eta = (float) c.k_eta[bits];
    return s;
}

xq_side xq_value_side(const xq_config & c, int bits, int dv, bool follower) {
    xq_side s{};
    s.bits = bits; s.meta = c.v_meta; s.rows = XQ_TILE; s.strips = (dv + XQ_LANES - 1) / XQ_LANES;
    s.lanes_last = dv - (s.strips - 1)*XQ_LANES;
    s.fit = follower ? c.follower : XQ_FIT_MINMAX;
    s.eta = (float) c.v_eta[bits];
    return s;
}

std::vector<xq_layer_plan> xq_make_plan(const xq_config & c, const std::vector<xq_layer_shape> & shapes) {
    const int n = (int) shapes.size();
    const int k1 = c.k_1bit_from.resolve(n),  v1 = c.v_1bit_from.resolve(n);
    const int ks = c.k_share_from.resolve(n), vs = c.v_share_from.resolve(n);

    std::vector<xq_layer_plan> plan;
    for (int i = 0; i < n; ++i) {
        const xq_layer_shape & s = shapes[i];
        const int k_bits = i >= k1 ? 1 : c.k_bits, v_bits = i >= v1 ? 1 : c.v_bits;
        const bool paired   = i % 2 == 1 && s.same_shape(shapes[i - 1]);
        const bool k_follow = paired && i - 1 >= ks && plan[i - 1].k.bits == k_bits;
        const bool v_follow = paired && i - 1 >= vs && plan[i - 1].v.bits == v_bits;
        plan.push_back({
            s, xq_key_side(c, k_bits, s.dk, k_follow), xq_value_side(c, v_bits, s.dv, v_follow),
            k_follow ? shapes[i - 1].il : s.il, v_follow ? shapes[i - 1].il : s.il,
        });
    }
    return plan;
}
