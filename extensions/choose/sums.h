// Sums of exp(logit / temperature) over what a request sees.
#pragma once

#include <span>

#include "seen.h"

namespace mpsplit {

constexpr double log2_e = 1.4426950408889634;

// Of exp((logit - best) / temperature): of the plain ones from a row, where a run begins, to
// another, and of these tilted ones. To 1e-10 of itself.
double sum_of(const Seen& seen, double temperature, size_t begin, size_t end,
              std::span<const double> tilted);

// The log of the sum of exp(logit / temperature) of all.
double log_sum(const Seen& seen, double temperature);

// The first of these of all, by block of answer_block rows, at the end of these.
void add_block_sums(const Seen& seen, double temperature, std::vector<double>& sums);

// And of all that lie below a logit, to `rough` of itself, in a third of the time.
constexpr double rough = 1e-5;
double rough_sum_below(const Seen& seen, double temperature, float limit);

// The log of the sum of exp(x) of the model's own: the largest counts 1 exactly, so floats tell the
// log of its probability to 1e-6 of itself.
double own_log_sum(const Seen& seen);

}  // namespace mpsplit
