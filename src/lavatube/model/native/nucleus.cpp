#include "nucleus.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

namespace {

constexpr int64_t CLASSES = 4096;

}  // namespace

// Scores are put into classes of like ones; only the class in which the share is reached is ranked.
double nucleus_floor(const double* scores, const double* weights, int64_t size, double floor, double share) {
    const double least = -std::numeric_limits<double>::infinity();
    double high = least, low = -least;
    for (int64_t i = 0; i < size; ++i) {
        if (!(scores[i] >= floor) || scores[i] == least) continue;
        high = std::max(high, scores[i]);
        low = std::min(low, scores[i]);
    }
    const double per_unit = (CLASSES - 1) / (high - low);  // none where they hardly differ: all are of one class then
    const double classes_per_unit = high > low && std::isfinite(per_unit) ? per_unit : 0.0;
    const auto class_of = [&](double score) { return static_cast<int64_t>((high - score) * classes_per_unit); };
    double sums[CLASSES] = {};
    for (int64_t i = 0; i < size; ++i)
        if (scores[i] >= low) sums[class_of(scores[i])] += weights[i];
    double total = 0.0;
    for (double sum : sums) total += sum;

    const double limit = share * total;
    double before = 0.0;
    int64_t last = 0;
    for (int64_t i = 0; i < CLASSES && before < limit; ++i) {
        if (sums[i] == 0.0) continue;
        last = i;
        if (before + sums[i] >= limit) break;
        before += sums[i];
    }
    std::vector<std::pair<double, double>> ranked;
    for (int64_t i = 0; i < size; ++i)
        if (scores[i] >= low && class_of(scores[i]) == last) ranked.emplace_back(scores[i], weights[i]);
    std::sort(ranked.begin(), ranked.end(), [](const auto& one, const auto& other) { return one.first > other.first; });
    double kept = high;
    for (const auto& [score, weight] : ranked) {
        if (before >= limit) break;
        kept = score;
        before += weight;
    }
    return kept;
}
