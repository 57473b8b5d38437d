// Factors of keys from the size of queries.
#include "cache/metric_steps.h"

#include "check.h"

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

const std::vector<int> ALONE = {0, 1, 2, 3}, ADJACENT = {1, 0, 3, 2}, HALVES = {2, 3, 0, 1};

std::string refusal(const std::vector<double> & squares) {
    try {
        xq_metric_from_squares(squares, ALONE, 1);
    } catch (const std::runtime_error & e) {
        return e.what();
    }
    return "";
}

constexpr uint8_t OCTAVE = XQ_METRIC_OCTAVE, LAST = XQ_METRIC_STEPS;

// The largest has factor 1, half its size 1/2; nothing is below 1/32, also not 0.
void by_size() {
    CHECK(xq_metric_from_squares({64, 16, 4, 1}, ALONE, 1) == xq_metric_steps({0, OCTAVE, 2*OCTAVE, 3*OCTAVE}));
    CHECK(xq_metric_from_squares({1, 1e-9, 0, 1.0/1024}, ALONE, 1) == xq_metric_steps({0, LAST, LAST, LAST}));
    CHECK(xq_metric_from_squares({3e300, 3e300, 3e300, 3e300}, ALONE, 1) == xq_metric_steps({0, 0, 0, 0}));
}

// To the nearest step.
void rounded() {
    const double step = std::exp2(-2.0/OCTAVE); // of a square
    CHECK(xq_metric_from_squares({1, std::pow(step, 0.49), std::pow(step, 0.51), std::pow(step, 6.6)}, ALONE, 1) == xq_metric_steps({0, 0, 1, 7}));
}

void pairs_share_a_factor() {
    CHECK(xq_metric_from_squares({32, 0, 1, 1}, ADJACENT, 1) == xq_metric_steps({0, 0, 2*OCTAVE, 2*OCTAVE}));
    CHECK(xq_metric_from_squares({32, 1, 0, 1}, HALVES, 1) == xq_metric_steps({0, 2*OCTAVE, 0, 2*OCTAVE}));
}

// Heads of a group count together, KV heads do not.
void by_group() {
    const auto steps = xq_metric_from_squares({1, 1, 1, 1, 31, 1, 1, 1, /**/ 1, 1, 4, 4, 1, 1, 4, 4}, ALONE, 2);
    CHECK(steps == xq_metric_steps({0, 2*OCTAVE, 2*OCTAVE, 2*OCTAVE, OCTAVE, OCTAVE, 0, 0}));
}

void what_says_nothing() {
    CHECK(refusal({0, 0, 0, 0}) == "its queries are 0");
    CHECK(refusal({1, std::nan(""), 1, 1}) == "its queries are not finite");
    CHECK(refusal({std::nan(""), 1, 1, 1}) == "its queries are not finite");
    CHECK(refusal({1, 1, std::numeric_limits<double>::infinity(), 1}) == "its queries are not finite");
}

} // namespace

int main() {
    by_size();
    rounded();
    pairs_share_a_factor();
    by_group();
    what_says_nothing();
    return check_report();
}
