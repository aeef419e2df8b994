// QLinear: y[rows, n] = x[rows, k] W[n, k]^T with W in blocks of 4, 6 or 8 bit integers, of 4
// to 16 values by a table, with a minimum, of parts, or in bfloat16. This file is the whole
// interface.
//
// An integer W is symmetric: in every row, every `block` neighbours along k are signed integers
// times one 16-bit float. x is float32 and becomes int8, block by block, inside a call; for a W in
// bfloat16 it becomes bfloat16 too. Nothing is allocated by a product: the caller brings the
// scratch buffer. What cannot be is a std::invalid_argument whose text names the numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "block_scale.h"
#include "thread_pool.h"

namespace mpsplit {

struct Shape {
    int n;      // outputs, any number from 1
    int k;      // inputs, a multiple of block; any number with 16 bits
    int bits;   // 4, 6 or 8; 16 is bfloat16, 18, 19 and 20 are 2, 3 and 4 bits by table, 36 and 37
                // are 4 and 5 bits with a minimum, 64 and more are blocks of parts (forms.h)
    int block;  // 32, 64 or 128; 32 with 16 bits, 256 with parts
};

// The packed form (layout.h draws it) is the same on every machine and may be mapped from a file,
// at a multiple of 64 bytes.
size_t packed_bytes(const Shape& shape);

// rows [n, k] float32; in 16 bits: to the nearest
void pack(const Shape& shape, const float* rows, void* packed, ThreadPool& pool,
          Scales scales = Scales::minmax);
// the same, not packed: values [n, k], scales [n, k / block]
void integers(const Shape& shape, const float* rows, int8_t* values, float* scales, Scales method,
              ThreadPool& pool);
// values [n, k] that the form has (not 16 bits), scales [n, k / block] rounded to 16 bits; with a
// minimum scales [n, k / block, 2]: each block's scale, then its minimum; of parts [n, k / block,
// all numbers of a block]: after these two come the scales of all parts, then their minimums, whole
// numbers
void pack(const Shape& shape, const int8_t* values, const float* scales, void* packed,
          ThreadPool& pool);
// A packed matrix somewhere in memory that is known to be large enough; only view() makes one.
struct Weights {
    Shape shape;
    const uint8_t* data;
};
Weights view(const Shape& shape, const void* packed, size_t bytes);
// back to rows [n, k] float32
void unpack(const Weights& weights, float* rows);
void unpack(const Weights& weights, int row, float* y);  // one of them, [k]
// back to values [n, k] and scales [n, k / block], which pack() makes the same bytes of; not 16
// bits
void integers(const Weights& weights, int8_t* values, float* scales);

// y = x W^T, + bias, + residual, where they are given; or, with a gate, y = silu(x gate^T) * (x
// W^T) and nothing else.
struct Product {
    Weights weights;
    float* y;                         // [rows, n]
    const float* bias = nullptr;      // [n]
    const float* residual = nullptr;  // [rows, n], may be y itself
    // of the same n, k and block of inputs, in integers or bfloat16 like the weights
    const Weights* gate = nullptr;
};

// Whether products of both, which packed_bytes takes, can be of one x
bool read_alike(const Shape& a, const Shape& b);

// One way to compute, for one instruction set: "plain", "avx2", "vnni", "bf16" (vnni, and bfloat16
// products) or "neon".
struct Path;
const Path* path_named(const std::string& name);  // nullptr where this machine cannot run it
const Path* best_path();
std::vector<std::string> path_names();  // those that run here, the best one last

size_t scratch_bytes(int rows, const Shape& shape);

// All products of one x [rows, k] together, x quantised once. Bits may differ between
// them, k and block may not, nor may bfloat16 stand beside integers. A row's result depends neither
// on the threads nor on the other rows.
void multiply(const Product* products, int count, const float* x, int rows, void* scratch,
              ThreadPool& pool, const Path* path = best_path());

}  // namespace mpsplit
