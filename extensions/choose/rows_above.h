// Which rows are likely enough to be looked at.
#pragma once

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include <cstddef>
#include <cstdint>
#include <span>

namespace mpsplit {

// Writes the rows that are `lowest` at least, in ascending order, and gives how many. There is room
// for 16 more than all. No branch is guessed wrong.
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
#endif
    for (; row < x.size(); ++row) {
        rows[count] = int32_t(row);
        count += x[row] >= lowest;
    }
    return count;
}

}  // namespace mpsplit
