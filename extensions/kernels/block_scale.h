// The scale of one block and its integers: where quantising loses or keeps a model's precision.
#pragma once

#include <cstdint>

namespace mpsplit {

// minmax: the largest absolute value becomes the largest integer, or the least of a table. mse: the
// least squared error of some two dozen scales around that one, of both signs, as there is one
// integer more below zero than above. Either is a function of the block alone, with equal bits on
// every machine.
enum class Scales { minmax, mse };

// w [block] -> values [block] that the form has; gives the scale as float16. matters [block]: how
// much the square of each error counts to mse, all alike without it.
uint16_t fit(const float* w, int block, int bits, Scales method, int8_t* values,
             const float* matters = nullptr);

}  // namespace mpsplit
