// The layer plan: bits of every packed layer's keys and values, and which layer's codes it reads.
#pragma once

#include "cache/config.h"
#include "format/xq_format.h"

#include <vector>

// Shape of one layer that this cache packs, in model order.
struct xq_layer_shape {
    int il;         // layer index in the model
    int n_head_kv;
    int dk, dv;     // head dims of keys and values
    int n_head = 0; // query heads: what scratch depends on
    const void * device = nullptr; // where its cache lies

    bool can_share(const xq_layer_shape & o) const { return n_head_kv == o.n_head_kv && dk == o.dk && dv == o.dv && device == o.device; }
};

struct xq_layer_plan {
    xq_layer_shape shape;
    xq_side k, v;
    int k_leader; // il of the layer whose key codes it reads; its own il if it keeps codes
    int v_leader;
};

// Pairs are (0,1), (2,3), ... of the packed layers from the share thresholds on. A pair of different shapes or on
// two devices, or one cut by a 1-bit threshold, is not shared: codes can only be read at the bits they were written with.
// Throws std::runtime_error if the settings name bits for another number of layers.
std::vector<xq_layer_plan> xq_make_plan(const xq_config & config, const std::vector<xq_layer_shape> & shapes);

xq_side xq_key_side  (const xq_config & config, double bits, int dk, bool follower);
xq_side xq_value_side(const xq_config & config, int bits, int dv, bool follower);
