// f32 made smaller for the way: bf16 (2 bytes), or q8 (blocks of 32 bytes with one f32 scale, 36 bytes for 32 numbers).
//
// One rounding moves x by at most |x| / 256 as bf16, and by at most m / 254 as q8, where m is the largest |x| of its block.
// An all_reduce rounds once a level of the tree, L = ceil(log2(size)) of them, so the sum of N ranks is off by at most
//     bf16   ((1 + 1/256)^L - 1) * (|x_1| + ... + |x_N|)
//     q8     ((1 + 1/254)^L - 1) * (m_1 + ... + m_N)
// and the rounding of float addition. A q8 block that holds an infinity or a NaN becomes all NaN.
#pragma once

#include "comm.h"

namespace mpsplit {

size_t wire_bytes(Wire wire, size_t count);
void encode(Wire wire, const float* x, size_t count, std::byte* out);
void decode(Wire wire, const std::byte* in, size_t count, float* x);

} // namespace mpsplit
