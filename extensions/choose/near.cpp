#include "near.h"

#include <algorithm>
#include <cmath>

#include "exp2_below_0.h"
#include "orders.h"
#include "rows_above.h"
#include "sums.h"

namespace mpsplit {

int64_t cell_of(double scaled) {
    const double cell = std::floor(scaled * answer_grain);
    return std::abs(cell) < 1e15 ? int64_t(cell) : 0;
}

void Near::count(const Seen& seen, double temperature, int64_t top, int64_t count) {
    top_ = top;
    lowest_ = float((double(top - count + 1) - 0.01) * temperature / answer_grain);
    static thread_local std::vector<int32_t> rows;
    rows.resize(std::max(rows.size(), seen.plain.size() + rows_above_room));
    const auto plain = rows_above(seen.plain, lowest_, rows.data());
    rows_.assign(rows.begin(), rows.begin() + ptrdiff_t(plain));
    logits_.resize(rows_.size());
    for (size_t i = 0; i < rows_.size(); ++i) logits_[i] = double(seen.plain[size_t(rows_[i])]);
    for (size_t i = 0; i < seen.at.size(); ++i) {
        if (!(seen.tilted[i] >= double(lowest_))) continue;
        rows_.push_back(seen.at[i]);
        logits_.push_back(seen.tilted[i]);
    }
    const size_t found = rows_.size();
    const double ceiling = double(top + 1) / answer_grain;
    cells_.resize(found), weights_.resize(found);
    for (size_t i = 0; i < found; ++i) {
        const double scaled = logits_[i] / temperature;
        const double cell = double(top) - std::floor(scaled * answer_grain);
        cells_[i] = cell >= 0 && cell < double(count) ? int32_t(cell) : -1;
        weights_[i] = exp2_below_0((scaled - ceiling) * log2_e);
    }
    counts_.assign(size_t(count), 0), sums_.assign(size_t(count), 0);
    for (size_t i = 0; i < found; ++i) {
        if (cells_[i] < 0) continue;
        counts_[size_t(cells_[i])] += 1;
        sums_[size_t(cells_[i])] += weights_[i];
    }
}

void Near::inside(int64_t cell, std::vector<Candidate>& found) const {
    found.clear();
    if (cell < 0) return;
    for (size_t i = 0; i < cells_.size(); ++i)
        if (cells_[i] == cell) found.push_back({logits_[i], rows_[i]});
    std::sort(found.begin(), found.end());
}

double Near::sum() const {
    double sum = 0;
    for (const double each : weights_) sum += each;
    return sum;
}

}  // namespace mpsplit
