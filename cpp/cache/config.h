// Settings of a packed cache and how they are read from text ("k_bits=2,window=128,...").
#pragma once

#include <string>
#include <vector>

// A layer threshold counts the packed layers from 0. `never` switches the feature off; a fraction of depth is
// resolved once the number of layers is known.
struct xq_threshold {
    int    layer    = -1;   // -1: never
    double fraction = -1.0; // >= 0: this part of the depth, rounded down to an even layer

    int resolve(int n_layers) const;
    std::string text() const;
};

// Bits of every packed layer, or a pattern that repeats over them.
struct xq_layer_bits {
    std::vector<double> bits;
    bool repeats = false;

    double at(int layer) const { return bits[(size_t) layer % bits.size()]; }
    std::string text() const;
};

#define XQ_ALLOC_UNIFORM 0 // every key channel has k_bits
#define XQ_ALLOC_RANGE   1 // channels with a wide range have more, k_bits on average (format/xq_ranked.h)

#define XQ_SWA_F16    0 // caches of sliding windows stay in f16
#define XQ_SWA_PACKED 1 // they are packed where that saves memory

#define XQ_METRIC_NONE    0 // keys as they are
#define XQ_METRIC_QUERIES 1 // by the size of the queries that the weights alone let expect (metric.h)

struct xq_config {
    double k_bits = 2;             // whole bits where they are uniform
    int v_bits = 2;
    xq_layer_bits k_layers, v_layers; // empty: k_bits and v_bits
    int  k_alloc    = XQ_ALLOC_RANGE;
    int  k_metric   = XQ_METRIC_QUERIES; // keys are kept in the metric of queries (metric.h)
    bool v_unbiased = true;        // symmetric values under an unbiased scale (format/xq_unbiased.h)
    bool v_rotate   = true;        // Hadamard (format/xq_rotate.h)
    xq_threshold k_1bit_from, v_1bit_from;
    xq_threshold k_share_from, v_share_from;
    int window = 128;              // newest tokens in full precision
    int sink   = 4;                // first tokens in full precision, kept in whole tiles
    double k_eta[5] = {0, 0.28, 0.045, 0, 0}; // by bit-width; index 0 unused
    double v_eta[5] = {0, 1.0/6, 0.045, 0, 0};
    int k_meta = 1;                // XQ_META_F16 or _Q8, of uniform keys
    int v_meta = 1;                // the same, of values that are not unbiased
    int follower = 0;              // XQ_FIT_*
    int max_ubatch = 256;          // largest micro-batch; pages for it are part of the cache

    int swa = XQ_SWA_F16;

    std::string text() const { return codes_text() + ",swa=" + (swa == XQ_SWA_PACKED ? "packed" : "f16"); }
    std::string codes_text() const; // what the bytes of a layer depend on
};

// Parse settings over the defaults; throws std::runtime_error that names rule, value and remedy.
xq_config xq_config_parse(const std::string & text);

// Settings for contexts that this thread creates: those of xq_config_set, else the environment variable
// XQUANT_KV, else the defaults.
xq_config xq_config_current();

// text == null: forget this thread's settings.
void xq_config_set_thread(const char * text);
