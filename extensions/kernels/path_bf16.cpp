// The path of AVX-512 BF16: as vnni's for integers; in bfloat16 one instruction multiplies a line
// of weights by two inputs.
#include "vnni.h"

namespace mpsplit {
namespace {

struct Bf16 : Vnni {
    template <int width>
    static void line_of_pairs(const uint8_t* at, const int32_t* inputs, Floats (&sums)[width]) {
        const __m512bh w = std::bit_cast<__m512bh>(_mm512_loadu_si512(at));
#pragma GCC unroll 8
        for (int r = 0; r < width; r++)
            sums[r] =
                _mm512_dpbf16_ps(sums[r], w, std::bit_cast<__m512bh>(_mm512_set1_epi32(inputs[r])));
    }
};

}  // namespace

extern constinit const Path bf16_path = path_of<Bf16>(
    "bf16", [] { return runs_vnni() && __builtin_cpu_supports("avx512bf16"); }, quantise_lines);

}  // namespace mpsplit
