// The path of AVX2: pairs of products in 16 bits (maddubs), which weights of 2 to 6 bits
// cannot overflow, widened by madd.
#include <immintrin.h>

#include "path.h"

namespace mpsplit {
namespace {

struct Pair {
    __m256i low, high;  // Gj and G(j+4) of layout.h, 8 of the 16 outputs
};

[[gnu::always_inline]] inline __m256i shifted(__m256i bytes, int from, int to) {
    return from <= to ? _mm256_slli_epi16(bytes, to - from) : _mm256_srli_epi16(bytes, from - to);
}

// whose operand has signs: with a zero point of 128 it would be of 8 bits without one
constexpr bool has_signs(int zero) { return zero == 128; }

template <int bits>
[[gnu::always_inline]] inline Pair pair(const uint8_t* lines, int j) {
    auto load = [&](int l) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lines + l * line));
    };
    constexpr Form form = form_of(bits);
    const __m256i sign = _mm256_set1_epi8(-128);
    if constexpr (form.stored == 8)
        return {_mm256_xor_si256(load(j), sign), _mm256_xor_si256(load(j + 4), sign)};
    constexpr Plane lower = lower_plane(form.stored), upper = upper_plane(form.stored);
    const Place at = place_in(lower, j);
    const __m256i l = load(at.line), mask = _mm256_set1_epi8(char(mask_of(lower)));
    const Pair below = {_mm256_and_si256(shifted(l, at.low, 0), mask),
                        _mm256_and_si256(shifted(l, at.high, 0), mask)};
    const auto weights = [&](Pair places) -> Pair {
        if constexpr (!form.by_table()) return places;
        const __m256i signs = _mm256_broadcastsi128_si256(
                          _mm_loadu_si128(reinterpret_cast<const __m128i*>(form.values))),
                      values = has_signs(form.zero)
                                   ? signs
                                   : _mm256_add_epi8(signs, _mm256_set1_epi8(char(form.zero)));
        return {_mm256_shuffle_epi8(values, places.low), _mm256_shuffle_epi8(values, places.high)};
    };
    if constexpr (!upper.bits) return weights(below);
    const Place top = place_in(upper, j);
    const __m256i tops = load(top.line),
                  places = _mm256_set1_epi8(char(mask_of(upper) << upper.first));
    auto with = [&](__m256i bytes, int from) {
        return _mm256_or_si256(bytes, _mm256_and_si256(shifted(tops, from, upper.first), places));
    };
    return weights({with(below.low, top.low), with(below.high, top.high)});
}

__m256i widen(__m256i pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }

// signed 8-bit weights: |w| * (x with the sign of w), at most 2 * 128 * 127
__m256i signed_pairs(__m256i w, __m256i x) {
    return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
}

struct Avx2 {
    static constexpr int widest = 4;
    static constexpr bool offset = false;
    struct Dots {
        __m256i half[2];
    };
    struct Floats {
        __m256 half[2];
    };

    template <int zero>
    static Dots start(int32_t n) {
        if constexpr (zero == 0) return {_mm256_setzero_si256(), _mm256_setzero_si256()};
        const __m256i all =
            _mm256_slli_epi32(_mm256_set1_epi32(n), std::countr_zero(unsigned(zero)));
        return {all, all};
    }
    static Floats zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
    static Floats scales(const uint8_t* halfs) {
        auto at = [&](int i) {
            return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(halfs) + i));
        };
        return {at(0), at(1)};
    }
    template <class Of>
    static Floats numbers(const uint8_t* at, Of of) {
        auto eight = [&](int i) { return _mm256_cvtepi32_ps(of(_mm_loadu_si64(at + 8 * i))); };
        return {eight(0), eight(1)};
    }
    static Floats bytes(const uint8_t* at) {
        return numbers(at, [](__m128i b) { return _mm256_cvtepi8_epi32(b); });
    }
    static Floats nibbles(const uint8_t* at, bool high) {
        return numbers(at, [&](__m128i b) {
            const __m256i both = _mm256_cvtepu8_epi32(b);
            return high ? _mm256_srli_epi32(both, 4)
                        : _mm256_and_si256(both, _mm256_set1_epi32(15));
        });
    }
    static Floats times(Floats a, Floats b) {
        return {_mm256_mul_ps(a.half[0], b.half[0]), _mm256_mul_ps(a.half[1], b.half[1])};
    }
    static Floats accumulate(Floats sum, Dots dots, Floats scales, float x) {
        for (int i = 0; i < 2; i++) {
            __m256 scale = _mm256_mul_ps(scales.half[i], _mm256_set1_ps(x));
            sum.half[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots.half[i]), scale, sum.half[i]);
        }
        return sum;
    }
    static Floats add_times(Floats sum, Floats floats, float x) {
        for (int i = 0; i < 2; i++)
            sum.half[i] = _mm256_fmadd_ps(floats.half[i], _mm256_set1_ps(x), sum.half[i]);
        return sum;
    }
    static void store(float* y, Floats sum) {
        _mm256_storeu_ps(y, sum.half[0]);
        _mm256_storeu_ps(y + 8, sum.half[1]);
    }

    template <int bits, Half half, int width>
    static void chunk(const uint8_t* lines, const int32_t* inputs, Dots (&dots)[width]) {
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) eight<bits, half>(lines + i * (line / 2), inputs, dots, i);
    }

    // of outputs 8 i and those after it
    template <int bits, Half half, int width>
    static void eight(const uint8_t* lines, const int32_t* inputs, Dots (&dots)[width], int i) {
        // so many sums of 2 products are within 16 bits
        constexpr int most = form_of(bits).high + zero_point(bits), fit = 32767 / (2 * most * 127),
                      at_once = fit >= 8   ? 8
                                : fit >= 4 ? 4
                                           : 2;
        __m256i sums[width];
        for (auto& sum : sums) sum = _mm256_setzero_si256();
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            Pair w = pair<bits>(lines, j);
#pragma GCC unroll 4
            for (int r = 0; r < width; r++) {
                __m256i low = _mm256_set1_epi32(inputs[j * width + r]),
                        high = _mm256_set1_epi32(inputs[(j + 4) * width + r]);
                __m256i& dot = dots[r].half[i];
                if constexpr (has_signs(zero_point(bits))) {
                    __m256i sum = _mm256_add_epi32(widen(signed_pairs(w.low, low)),
                                                   widen(signed_pairs(w.high, high)));
                    dot = _mm256_add_epi32(dot, sum);
                    continue;
                }
                low = _mm256_maddubs_epi16(w.low, low), high = _mm256_maddubs_epi16(w.high, high);
                const __m256i more = half == Half::both    ? _mm256_add_epi16(low, high)
                                     : half == Half::first ? low
                                                           : high;
                const int added = (half == Half::both ? 2 : 1) * (j + 1);
                sums[r] = _mm256_add_epi16(sums[r], more);
                if (added % at_once && j < 3) continue;
                dot = _mm256_add_epi32(dot, widen(sums[r]));
                sums[r] = _mm256_setzero_si256();
            }
        }
    }

    static Floats add(const Floats& a, const Floats& b) {
        return {_mm256_add_ps(a.half[0], b.half[0]), _mm256_add_ps(a.half[1], b.half[1])};
    }

    // half by half: so the sums of four rows stay in registers
    template <int width>
    static void pairs(const uint8_t* lines, const int32_t* inputs, Floats (&evens)[width],
                      Floats (&odds)[width]) {
        for (int i = 0; i < 2; i++) {
            __m256 even[width], odd[width];
            for (int r = 0; r < width; r++) even[r] = evens[r].half[i], odd[r] = odds[r].half[i];
            pairs_by_lines<Avx2>(lines + i * (line / 2), inputs, even, odd);
            for (int r = 0; r < width; r++) evens[r].half[i] = even[r], odds[r].half[i] = odd[r];
        }
    }

    // a bfloat16 is the upper half of a float32
    template <int width>
    static void line_of_pairs(const uint8_t* at, const int32_t* inputs, __m256 (&sums)[width]) {
        const __m256i upper = _mm256_set1_epi32(int(0xffff0000)),
                      w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
        const __m256 first = _mm256_castsi256_ps(_mm256_slli_epi32(w, 16)),
                     second = _mm256_castsi256_ps(_mm256_and_si256(w, upper));
#pragma GCC unroll 4
        for (int r = 0; r < width; r++) {
            __m256i x = _mm256_set1_epi32(inputs[r]);
            sums[r] =
                _mm256_fmadd_ps(first, _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)), sums[r]);
            sums[r] =
                _mm256_fmadd_ps(second, _mm256_castsi256_ps(_mm256_and_si256(x, upper)), sums[r]);
        }
    }
};

}  // namespace

extern constinit const Path avx2_path = path_of<Avx2>("avx2", [] {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
});

}  // namespace mpsplit
