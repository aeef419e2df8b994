// GPTQ: what rounding one column of a weight spoils, the columns after it make up for.
//
// The error that counts is |(W - Q) x|^2 over the inputs of a text. Columns are rounded from the
// first to the last; the error of column j over U[j][j] is taken off those after it in proportion
// to U[j], where the inverse of the inputs' second moments is U^T U, U upper triangular (Frantar et
// al., arXiv 2210.17323). The scale of a block is searched when the block is reached, on what
// earlier errors have made of it, and column j counts 1 / U[j][j]^2: what is left of its inputs
// once those after it have made up for what they can.
//
// Invariant: a row of the result depends on its row of W and on U alone, with equal bits on every
// machine.
#pragma once

#include <cstdint>

#include "block_scale.h"
#include "qlinear.h"

namespace mpsplit {

// rows [n, k], u [k, k] -> values [n, k] within the bits, scales [n, k / block] that 16 bits hold
void gptq(const Shape& shape, const float* rows, const float* u, Scales method, int8_t* values,
          float* scales, ThreadPool& pool);

}  // namespace mpsplit
