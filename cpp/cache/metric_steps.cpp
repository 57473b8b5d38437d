#include "cache/metric_steps.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

xq_metric_steps xq_metric_from_squares(const std::vector<double> & squares, const std::vector<int> & partner, int n_head_kv) {
    const size_t dk = partner.size(), group = squares.size()/dk/n_head_kv;
    xq_metric_steps steps(n_head_kv*dk);
    for (int head = 0; head < n_head_kv; ++head) {
        std::vector<double> sum(dk, 0.0);
        for (size_t g = 0; g < group; ++g) {
            const double * of = squares.data() + (head*group + g)*dk;
            for (size_t c = 0; c < dk; ++c) {
                sum[c] += of[c] + of[partner[c]];
            }
        }
        if (!std::all_of(sum.begin(), sum.end(), [](double v) { return std::isfinite(v); })) {
            throw std::runtime_error("its queries are not finite");
        }
        const double largest = *std::max_element(sum.begin(), sum.end());
        if (!(largest > 0)) {
            throw std::runtime_error("its queries are 0");
        }
        for (size_t c = 0; c < dk; ++c) {
            const double below = sum[c] > 0 ? XQ_METRIC_OCTAVE*0.5*std::log2(largest/sum[c]) : (double) XQ_METRIC_STEPS;
            steps[head*dk + c] = (uint8_t) std::lround(std::min(below, (double) XQ_METRIC_STEPS));
        }
    }
    return steps;
}
