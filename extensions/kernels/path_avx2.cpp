// The path of AVX2: pairs of products in 16 bits (maddubs), which weights of 2 to 6 bits
// cannot overflow, widened by madd.
#include <immintrin.h>

#include "path.h"

namespace mpsplit {
namespace {

[[gnu::always_inline]] inline __m256i shifted(__m256i bytes, int from, int to) {
    return from <= to ? _mm256_slli_epi16(bytes, to - from) : _mm256_srli_epi16(bytes, from - to);
}

// whose operand has signs: with a zero point of 128 it would be of 8 bits without one
constexpr bool has_signs(int zero) { return zero == 128; }

// Gj or G(j+4) of layout.h, for 8 of the 16 outputs
template <int bits>
[[gnu::always_inline]] inline __m256i group(const uint8_t* lines, int j, bool later) {
    auto load = [&](int l) INLINED {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lines + l * line));
    };
    auto bits_of = [&](Plane plane) INLINED {
        const Place at = place_in(plane, j);
        return _mm256_and_si256(shifted(load(at.line), later ? at.high : at.low, plane.first),
                                _mm256_set1_epi8(char(mask_of(plane) << plane.first)));
    };
    constexpr Form form = form_of(bits);
    if constexpr (form.stored == 8)
        return _mm256_xor_si256(load(later ? j + 4 : j), _mm256_set1_epi8(-128));
    constexpr Plane upper = upper_plane(form.stored);
    __m256i found = bits_of(lower_plane(form.stored));
    if constexpr (upper.bits) found = _mm256_or_si256(found, bits_of(upper));
    if constexpr (!form.by_table()) return found;
    const __m256i signs = _mm256_broadcastsi128_si256(
                      _mm_loadu_si128(reinterpret_cast<const __m128i*>(form.values))),
                  values = has_signs(form.zero)
                               ? signs
                               : _mm256_add_epi8(signs, _mm256_set1_epi8(char(form.zero)));
    return _mm256_shuffle_epi8(values, found);
}

[[gnu::always_inline]] inline __m256i widen(__m256i pairs) {
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

// signed 8-bit weights: |w| * (x with the sign of w), at most 2 * 128 * 127
[[gnu::always_inline]] inline __m256i signed_pairs(__m256i w, __m256i x) {
    return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
}

// four inputs, eight times: as floats they are loaded faster than as integers
[[gnu::always_inline]] inline __m256i everywhere(const int32_t* inputs) {
    return _mm256_castps_si256(_mm256_broadcast_ss(reinterpret_cast<const float*>(inputs)));
}

// Sums in the order in which they are written: else the compiler makes all products first, more
// than there are registers.
[[gnu::always_inline]] inline void held(__m256i& sum) { asm("" : "+x"(sum)); }

// A chunk or half of it, whose products with four rows are summed within the registers.
template <int bits, Half half, int width>
struct Chunk {
    // so many products, each of 2 weights, have a sum within 16 bits
    static constexpr int most = form_of(bits).high + zero_point(bits),
                         fit = 32767 / (2 * most * 127),
                         count = half == Half::both ? groups : groups / 2;
    const uint8_t* lines;
    const int32_t* inputs;

    // in an order that reads a line but once
    static constexpr int group_at(int g) {
        if (half == Half::both) return g / 2 + g % 2 * (groups / 2);
        return g + (half == Half::second) * (groups / 2);
    }
    template <int g>
    [[gnu::always_inline]] __m256i weights(number<g>, int i) const {
        constexpr int at = group_at(g), later = groups / 2;
        return group<bits>(lines + i * (line / 2), at % later, at >= later);
    }
    template <int g>
    [[gnu::always_inline]] __m256i input(number<g>, int r) const {
        return everywhere(inputs + group_at(g) * width + r);
    }

    // where all products have a sum in 16 bits
    template <class Dots>
    [[gnu::always_inline]] void add_both_halves(Dots (&dots)[width]) const {
        __m256i sums[width][2];
        each<count>([&](auto g) INLINED {
            const __m256i w[2] = {weights(g, 0), weights(g, 1)};
            each<width>([&](auto r) INLINED {
                const __m256i x = input(g, r);
                each<2>([&](auto i) INLINED {
                    const __m256i pairs = _mm256_maddubs_epi16(w[i], x);
                    sums[r][i] = g == 0 ? pairs : _mm256_add_epi16(sums[r][i], pairs);
                    held(sums[r][i]);
                });
            });
        });
        each<width>([&](auto r) INLINED {
            each<2>([&](auto i) INLINED {
                dots[r].half[i] = _mm256_add_epi32(dots[r].half[i], widen(sums[r][i]));
            });
        });
    }

    // where totals of 32 bits are needed beside them: 8 of the 16 outputs, of two groups at a time
    [[gnu::always_inline]] void add_half(int i, __m256i (&totals)[width]) const {
        __m256i sums[width];
        each<count / 2>([&](auto pair) INLINED {
            constexpr number<2 * pair> a;
            constexpr number<2 * pair + 1> b;
            const __m256i wa = weights(a, i), wb = weights(b, i);
            // whether sums begin, and whether they are as large as they may be
            constexpr bool first = fit < 4 || pair % 2 == 0, full = fit < 4 || pair % 2 == 1;
            each<width>([&](auto r) INLINED {
                __m256i &total = totals[r], &sum = sums[r];
                if constexpr (has_signs(zero_point(bits))) {
                    total = _mm256_add_epi32(total, widen(signed_pairs(wa, input(a, r))));
                    total = _mm256_add_epi32(total, widen(signed_pairs(wb, input(b, r))));
                } else {
                    const __m256i pairs = _mm256_maddubs_epi16(wa, input(a, r));
                    sum = first ? pairs : _mm256_add_epi16(sum, pairs);
                    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(wb, input(b, r)));
                    if constexpr (full) total = _mm256_add_epi32(total, widen(sum));
                    if constexpr (!full) held(sum);
                }
                held(total);
            });
        });
    }
};

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
    [[gnu::always_inline]] static void chunk(const uint8_t* lines, const int32_t* inputs,
                                             Dots (&dots)[width]) {
        using Sums = Chunk<bits, half, width>;
        if constexpr (Sums::fit >= Sums::count)
            Sums{lines, inputs}.add_both_halves(dots);
        else
            each<2>([&](auto i) INLINED {
                // else inputs of the first half are kept for the second, in memory
                asm volatile("" : "+r"(inputs));
                __m256i totals[width];
                each<width>([&](auto r) INLINED { totals[r] = dots[r].half[i]; });
                Sums{lines, inputs}.add_half(i, totals);
                each<width>([&](auto r) INLINED { dots[r].half[i] = totals[r]; });
            });
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
