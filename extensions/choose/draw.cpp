#include "draw.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "exp2_below_0.h"
#include "orders.h"
#include "sums.h"

namespace mpsplit {

namespace {

constexpr int64_t usual_cells = 256;

// Where the sum passes what is sought, far enough from where it begins and ends there; `before` is
// the sum of what comes before all of these.
std::optional<size_t> sure_place(const std::vector<double>& cumulative, double sought,
                                 double before, double sure) {
    const auto found = std::upper_bound(cumulative.begin(), cumulative.end(), sought);
    const auto at = size_t(found - cumulative.begin());
    if (found == cumulative.end() || *found - sought < sure) return {};
    const double begins = at ? cumulative[at - 1] : before;
    if (sought - begins < sure && (at || before > 0)) return {};
    return at;
}

// The sums of exp(logit / temperature - zero), begun with `before`.
std::vector<double> cumulative(const std::vector<Candidate>& candidates, double temperature,
                               double zero, double before) {
    std::vector<double> sums(candidates.size());
    for (size_t i = 0; i < sums.size(); ++i)
        sums[i] = exp2_below_0((candidates[i].logit / temperature - zero) * log2_e);
    for (double& each : sums) each = before += each;
    return sums;
}

// Of what top-k leaves.
Drawn of_likeliest(const Seen& seen, const Draw& draw) {
    const auto fewest = size_t(std::max(draw.top_k, draw.min_keep));
    if (int64_t(fewest) >= few_candidates) return {};
    std::vector<Candidate> left;
    seen.likeliest(fewest + 1, left);  // one more tells that no tie was left behind
    const double floor = left.size() < seen.own.size() ? left.back().logit : double(never);
    const double last = left[std::min(fewest, left.size()) - 1].logit;
    while (left.back().logit < last || left.back().logit == double(never)) left.pop_back();
    if (left.back().logit <= floor) return {};
    const double best = left[0].logit, heat = draw.temperature;
    const auto sums = cumulative(left, heat, best / heat, 0);
    size_t kept = left.size();
    if (draw.top_p < 1) {
        const auto at = sure_place(sums, draw.top_p * sums.back(), 0, edge * sums.back());
        if (!at) return {};
        kept = std::max(size_t(draw.min_keep), *at + 1);
    }
    if (draw.min_p > 0) {
        size_t fine = 0;
        for (const Candidate& each : left) {
            const double above = (each.logit - best) / heat - std::log(draw.min_p);
            if (std::abs(above) < edge) return {};
            fine += above > 0;
        }
        kept = std::min(kept, std::max(size_t(draw.min_keep), fine));
    }
    kept = std::min(kept, left.size());
    if (kept == 1) return {left[0].row};
    const double all = sums[kept - 1], sought = draw.random * all;
    const auto at = sure_place(sums, sought, 0, edge * all);
    return at ? Drawn{left[*at].row} : Drawn{};
}

// Nothing is left out, and the tokens stand in the order of ids.
Drawn of_blocks(const Seen& seen, const Draw& draw) {
    const double heat = draw.temperature;
    std::vector<double> ends;
    add_block_sums(seen, heat, ends);
    double all = 0;
    for (double& each : ends) each = all += each;
    const double sought = draw.random * all;
    const auto block = size_t(std::upper_bound(ends.begin(), ends.end(), sought) - ends.begin());
    if (block == ends.size()) return {};
    const size_t begin = block * answer_block;
    std::vector<Candidate> rows;
    for (size_t row = begin; row < std::min(seen.plain.size(), begin + answer_block); ++row)
        rows.push_back({seen.plain[row], int64_t(row)});
    const auto first = std::lower_bound(seen.at.begin(), seen.at.end(), int32_t(begin));
    for (auto i = size_t(first - seen.at.begin()); i < seen.at.size(); ++i) {
        if (size_t(seen.at[i]) >= begin + rows.size()) break;
        rows[size_t(seen.at[i]) - begin].logit = seen.tilted[i];
    }
    const double before = block ? ends[block - 1] : 0;
    const auto sums = cumulative(rows, heat, seen.best / heat, before);
    const auto at = sure_place(sums, sought, before, edge * all);
    return at ? Drawn{rows[*at].row} : Drawn{};
}

// Where top-p and min-p cut, and the draw between (cells.py).
class CellDraw {
  public:
    CellDraw(const Seen& seen, Near& near, const Draw& draw)
        : seen_(seen), near_(near), draw_(draw) {}

    // The sums down to the end of each of so many cells, and the weight of all that there is.
    void count(int64_t cells) {
        const double heat = draw_.temperature;
        near_.count(seen_, heat, cell_of(seen_.best / heat), cells);
        double sum = 0;
        ends_.clear();
        for (const double each : near_.sums()) ends_.push_back(sum += each);
        lowest_ = size_t(cells);
        if (draw_.min_p > 0)
            lowest_ = size_t(near_.top() - cell_of(seen_.best / heat + std::log(draw_.min_p)));
        weight_ = sum, doubt_ = 0;
        if (!cuts()) return;
        const double below = rough_sum_below(seen_, heat, near_.lowest()) * best_weight();
        weight_ = near_.sum() + below, doubt_ = rough * below;
    }

    // Whether the cut is in these cells for sure.
    bool deep_enough() const {
        return (cuts() && draw_.top_p * weight_ < ends_.back() - sure() - doubt_) ||
               lowest_ < ends_.size();
    }

    // How many cells may matter; none where numbers do not tell.
    std::optional<int64_t> depth() const {
        double deep = draw_.min_p > 0 ? -std::log(draw_.min_p) : deepest;
        if (cuts())
            deep = std::min(deep, std::log(double(seen_.own.size())) - std::log1p(-draw_.top_p) -
                                      std::log(weight_ / best_weight()));
        if (!(deep < deepest)) return {};
        return int64_t(deep * answer_grain) + 3;
    }

    Drawn result() {
        size_t cut = lowest_;
        double kept = std::numeric_limits<double>::infinity();
        const bool fewer =
            draw_.min_p > 0 && draw_.top_p * weight_ > ends_.back() + sure() + doubt_;  // min-p's
        if (cuts() && !fewer) {
            auto at = find(draw_.top_p * weight_, sure() + doubt_);
            if (!at && doubt_ > 0) {
                weigh();
                at = find(draw_.top_p * weight_, sure());
            }
            if (!at) return {};
            cut = cell_, kept = sums_[*at];
        }
        if (lowest_ < ends_.size() && lowest_ <= cut) {
            const auto above = this->above();
            if (!above) return {};
            if (*above < kept) cut = lowest_, kept = *above;
        }
        const double sought = draw_.random * kept;
        if (!(kept - sought >= sure())) return {};
        const auto at = find(sought, sure());
        if (!at) return {};
        double counted = 0;
        for (size_t i = 0; i < std::min(cut, ends_.size()); ++i) counted += near_.counts()[i];
        const auto cells = int64_t(cut);
        return {inside_[*at].row, counted >= nucleus ? cells + cells / 8 + 8 : 0};
    }

  private:
    bool cuts() const { return draw_.top_p < 1; }
    double sure() const { return edge * weight_; }
    double zero() const { return double(near_.top() + 1) / answer_grain; }
    double best_weight() const { return std::exp(seen_.best / draw_.temperature - zero()); }

    void weigh() {
        weight_ =
            sum_of(seen_, draw_.temperature, 0, seen_.plain.size(), seen_.tilted) * best_weight();
        doubt_ = 0;
    }

    void look_into(size_t cell) {
        cell_ = cell;
        near_.inside(int64_t(cell), inside_);
        sums_ = cumulative(inside_, draw_.temperature, zero(), before(cell));
    }
    double before(size_t cell) const { return cell ? ends_[cell - 1] : 0; }

    // Looks into the cell in which the sum passes what is sought, and where in it.
    std::optional<size_t> find(double sought, double sure) {
        const auto found = std::upper_bound(ends_.begin(), ends_.end(), sought);
        if (found == ends_.end()) return {};
        look_into(size_t(found - ends_.begin()));
        return sure_place(sums_, sought, before(cell_), sure);
    }

    // The sum of the weights of what min-p leaves.
    std::optional<double> above() {
        const double heat = draw_.temperature, log_p = std::log(draw_.min_p);
        look_into(lowest_);
        const double limit = (seen_.best / heat + log_p) * answer_grain;
        const double past = limit - std::floor(limit);
        if (std::min(past, 1 - past) < edge * answer_grain * std::max(1.0, std::abs(seen_.best)))
            return {};
        size_t fine = 0;
        for (const Candidate& each : inside_) {
            const double above = (each.logit - seen_.best) / heat - log_p;
            if (std::abs(above) < edge) return {};
            fine += above > 0;
        }
        return fine ? sums_[fine - 1] : before(lowest_);
    }

    const Seen& seen_;
    Near& near_;
    const Draw& draw_;
    std::vector<double> ends_;
    size_t lowest_ = 0;  // the cell where min-p cuts; it may lie below all these
    double weight_ = 0, doubt_ = 0;
    size_t cell_ = 0;  // the one looked into, what is in it, the sums down to each
    std::vector<Candidate> inside_;
    std::vector<double> sums_;
};

Drawn of_cells(const Seen& seen, Near& near, const Draw& draw, int64_t wide) {
    if (draw.min_keep > 1) return {};
    CellDraw cells(seen, near, draw);
    cells.count(wide ? wide : usual_cells);
    if (!cells.deep_enough()) {
        const auto depth = cells.depth();
        if (!depth) return {};
        cells.count(*depth);
    }
    return cells.result();
}

}  // namespace

Drawn drawn(const Seen& seen, Near& near, const Draw& draw, int64_t wide) {
    if (!(std::abs(seen.best) < 1e30)) return {};  // nothing is allowed, or not finite
    if (draw.temperature < coldest) {
        std::vector<Candidate> best;
        seen.likeliest(1, best);
        return {best[0].row};
    }
    if (draw.top_k) return of_likeliest(seen, draw);
    if (draw.top_p < 1 || draw.min_p > 0) return of_cells(seen, near, draw, wide);
    return of_blocks(seen, draw);
}

}  // namespace mpsplit
