// The metric in which a layer keeps its keys. A key's error costs its size times the query's in that channel, so keys
// are multiplied by a factor that follows the size of the layer's queries (graph/queries.h), and queries are divided by
// it: scores stay what they are, and ranking, scales and midpoints of keys work where the cost is.
//
// Factors are from 1/32 to 1, so no key leaves f16's range that was within it, in steps of an eighth of an octave: whole
// octaves would multiply without rounding, but cost as much as the metric gains on some models (docs/quality.md). A key is
// rounded to f16 once, as it would be without a factor. Channels that RoPE turns into each other share a factor, so
// rotating a key and multiplying it commute.
#pragma once

#include <cstdint>
#include <vector>

constexpr int XQ_METRIC_OCTAVE = 8; // steps in which a factor halves
constexpr int XQ_METRIC_STEPS  = 5*XQ_METRIC_OCTAVE; // of the smallest factor

// For one layer, by KV head and channel: the factor is 2^(-step/XQ_METRIC_OCTAVE).
using xq_metric_steps = std::vector<uint8_t>;

// From the mean square of every channel of every query head [n_head][dk]; KV head h serves n_head/n_head_kv of them.
// partner: the channel that RoPE turns this one into, or itself. Throws std::runtime_error if a figure is not finite or all are 0.
xq_metric_steps xq_metric_from_squares(const std::vector<double> & squares, const std::vector<int> & partner, int n_head_kv);
