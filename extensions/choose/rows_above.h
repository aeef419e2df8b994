// Which rows are likely enough to be looked at.
#pragma once

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace mpsplit {

constexpr size_t rows_above_room = 16;  // more than all rows, to write into

// By the bits of eight that are fine: which these are, in ascending order.
using Places = std::array<std::array<uint8_t, 8>, 256>;
constexpr Places places = [] {
    Places places{};
    for (size_t bits = 0; bits < 256; ++bits)
        for (size_t i = 0, count = 0; i < 8; ++i)
            if (bits >> i & 1) places[bits][count++] = uint8_t(i);
    return places;
}();

// Writes the rows that are `lowest` at least, in ascending order, and gives how many. No branch is
// guessed wrong.
inline size_t rows_above(std::span<const float> x, float lowest, int32_t* rows) {
    size_t count = 0, row = 0;
#ifdef __AVX512F__
    __m512i these = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (; row + 16 <= x.size(); row += 16) {
        const __mmask16 fine =
            _mm512_cmp_ps_mask(_mm512_loadu_ps(x.data() + row), _mm512_set1_ps(lowest), _CMP_GE_OQ);
        _mm512_storeu_si512(rows + count, _mm512_maskz_compress_epi32(fine, these));
        count += size_t(__builtin_popcount(fine));
        these = _mm512_add_epi32(these, _mm512_set1_epi32(16));
    }
#elif defined(__AVX2__)
    for (; row + 8 <= x.size(); row += 8) {
        const int fine = _mm256_movemask_ps(
            _mm256_cmp_ps(_mm256_loadu_ps(x.data() + row), _mm256_set1_ps(lowest), _CMP_GE_OQ));
        const auto* which = reinterpret_cast<const __m128i*>(places[size_t(fine)].data());
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(rows + count),
                            _mm256_add_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64(which)),
                                             _mm256_set1_epi32(int32_t(row))));
        count += size_t(__builtin_popcount(unsigned(fine)));
    }
#endif
    for (; row < x.size(); ++row) {
        rows[count] = int32_t(row);
        count += x[row] >= lowest;
    }
    return count;
}

}  // namespace mpsplit
