// What packing each layer costs, from one forward pass: for every width of a layer's keys and of its values, the energy
// that the change of its attention's output puts into the residual stream, over the energy of that stream.
//
// The pass runs in a packed context in which nothing is sealed yet, so its graph holds queries, and pages of keys and values,
// as a packed cache would have them. Behind a layer's attention its tiles are sealed and read back at every width, the
// attention is done again with them, and what changes is carried along as the model's graph goes on (output projection,
// gates, gains, post-norms: all linear in it) up to the residual stream. No architecture is known here by name.
#pragma once

#include "cache/config.h"

#include "ggml-backend.h"
#include "ggml.h"

#include <cstdint>
#include <map>
#include <string>
#include <vector>

struct xq_layer_cost {
    std::vector<double> k, v; // energy of the change, by width, over tokens
    double stream = 0;        // energy of the residual stream over the same tokens
    std::string why_none;     // why nothing could be measured, or ""
};

class xq_one_pass {
public:
    // config: of the cache to be; its window and sinks decide which token reads what packed. Bits of keys and values to measure.
    xq_one_pass(const xq_config & config, std::vector<double> k_bits, std::vector<int> v_bits);

    // Where the graphs run; must be set before the first node is seen.
    void run_on(ggml_backend_sched_t sched) { main = sched; }

    // For ggml_backend_sched_set_eval_callback, with this object as data.
    static bool see(ggml_tensor * t, bool ask, void * self);

    // Layers by their index in the model.
    const std::map<int, xq_layer_cost> & costs();

private:
    struct change { // behind the attention of a layer: a row for each token of each width
        std::vector<float> rows;
        int64_t size = 0, tokens = 0; // of one row; of one width
        std::vector<char> counts;     // by token: something of its context is packed
    };

    size_t n_widths() const { return k_bits.size() + v_bits.size(); }
    void begin(const ggml_tensor * attend);
    void follow(ggml_tensor * t);  // before t is computed
    void arrive(const ggml_tensor * t);
    void finish();
    void project(ggml_tensor * weight);
    bool project_heads(const ggml_tensor * t, const ggml_tensor * from); // each head by its own matrix (MLA)

    const xq_config config;
    const std::vector<double> k_bits;
    const std::vector<int> v_bits;
    ggml_backend_sched_t main = nullptr;

    int il = -1;                       // of the layer that is being followed, -1 between layers
    const ggml_tensor * at = nullptr;  // what the change is in
    change now;
    bool heads_apart = false;          // `at` holds heads one by one, tokens within; `now` has rows of tokens as ever
    bool at_sum = false;               // `at` is what the attention was added to
    xq_layer_cost sum;
    std::map<int, xq_layer_cost> found;
};
