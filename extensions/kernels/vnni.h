// The Isa of AVX-512 VNNI: one instruction multiplies a line of 64 weights by four inputs. For
// path_vnni.cpp and path_bf16.cpp, which compile it for their own CPUs.
#pragma once

#include <immintrin.h>

#include "path.h"

namespace mpsplit {
namespace {

struct Pair {
    __m512i low, high;  // Gj and G(j+4) of layout.h
};

[[gnu::always_inline]] inline __m512i shifted(__m512i bytes, int from, int to) {
    return from <= to ? _mm512_slli_epi16(bytes, to - from) : _mm512_srli_epi16(bytes, from - to);
}

template <int bits>
[[gnu::always_inline]] inline Pair pair(const uint8_t* lines, int j) {
    constexpr Form form = form_of(bits);
    auto load = [&](int l) { return _mm512_loadu_si512(lines + l * line); };
    if constexpr (form.stored == 8) return {load(j), load(j + 4)};
    constexpr Plane lower = lower_plane(form.stored), upper = upper_plane(form.stored);
    const Place at = place_in(lower, j);
    const __m512i l = load(at.line), mask = _mm512_set1_epi8(char(mask_of(lower)));
    const Pair below = {_mm512_and_si512(shifted(l, at.low, 0), mask),
                        _mm512_and_si512(shifted(l, at.high, 0), mask)};
    const auto weights = [&](Pair places) -> Pair {
        if constexpr (!form.by_table()) return places;
        const __m512i values = _mm512_add_epi8(
            _mm512_set1_epi8(char(form.zero)),
            _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(form.values))));
        return {_mm512_shuffle_epi8(values, places.low), _mm512_shuffle_epi8(values, places.high)};
    };
    if constexpr (!upper.bits) return weights(below);
    const Place top = place_in(upper, j);
    const __m512i tops = load(top.line),
                  places = _mm512_set1_epi8(char(mask_of(upper) << upper.first));
    const int or_and = 0xf8;  // a | (b & c)
    return weights(
        {_mm512_ternarylogic_epi32(below.low, shifted(tops, top.low, upper.first), places, or_and),
         _mm512_ternarylogic_epi32(below.high, shifted(tops, top.high, upper.first), places,
                                   or_and)});
}

struct Vnni {
    static constexpr int widest = 8;
    static constexpr bool offset = true;
    using Dots = __m512i;
    using Floats = __m512;

    template <int zero>
    static Dots start(int32_t n) {
        if constexpr (zero == 0) return _mm512_setzero_si512();
        return _mm512_slli_epi32(_mm512_set1_epi32(n), std::countr_zero(unsigned(zero)));
    }
    static Floats zero() { return _mm512_setzero_ps(); }
    static Floats scales(const uint8_t* halfs) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(halfs)));
    }
    // 16 numbers of 8 bits, or the low or the high nibbles of 16 bytes
    static Floats bytes(const uint8_t* at) {
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(sixteen(at)));
    }
    static Floats nibbles(const uint8_t* at, bool high) {
        const __m512i both = _mm512_cvtepu8_epi32(sixteen(at));
        return _mm512_cvtepi32_ps(high ? _mm512_srli_epi32(both, 4)
                                       : _mm512_and_si512(both, _mm512_set1_epi32(15)));
    }
    static __m128i sixteen(const uint8_t* at) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    }
    static Floats times(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
    static Floats accumulate(Floats sum, Dots dots, Floats scales, float x) {
        return _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), _mm512_mul_ps(scales, _mm512_set1_ps(x)),
                               sum);
    }
    static Floats add_times(Floats sum, Floats floats, float x) {
        return _mm512_fmadd_ps(floats, _mm512_set1_ps(x), sum);
    }
    static void store(float* y, Floats sum) { _mm512_storeu_ps(y, sum); }

    template <int bits, Half half, int width>
    static void chunk(const uint8_t* lines, const int32_t* inputs, Dots (&dots)[width]) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            Pair w = pair<bits>(lines, j);
            const int32_t *low = inputs + j * width, *high = inputs + (j + 4) * width;
#pragma GCC unroll 8
            for (int r = 0; half != Half::second && r < width; r++)
                dots[r] = _mm512_dpbusd_epi32(dots[r], w.low, _mm512_set1_epi32(low[r]));
#pragma GCC unroll 8
            for (int r = 0; half != Half::first && r < width; r++)
                dots[r] = _mm512_dpbusd_epi32(dots[r], w.high, _mm512_set1_epi32(high[r]));
        }
    }

    static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }

    // a bfloat16 is the upper half of a float32
    template <int width>
    static void line_of_pairs(const uint8_t* at, const int32_t* inputs, Floats (&sums)[width]) {
        const __m512i upper = _mm512_set1_epi32(int(0xffff0000)), w = _mm512_loadu_si512(at);
        const __m512 first = _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
        const __m512 second = _mm512_castsi512_ps(_mm512_and_si512(w, upper));
#pragma GCC unroll 8
        for (int r = 0; r < width; r++) {
            __m512i x = _mm512_set1_epi32(inputs[r]);
            sums[r] =
                _mm512_fmadd_ps(first, _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)), sums[r]);
            sums[r] =
                _mm512_fmadd_ps(second, _mm512_castsi512_ps(_mm512_and_si512(x, upper)), sums[r]);
        }
    }
};

// quantise() of tile.h, to the same bits
void quantise_lines(const float* x, int block, int width, int row, uint8_t* tile_block) {
    __m512i most = _mm512_setzero_si512();  // as integers: so a nan is the largest
    for (int i = 0; i < block; i += 16)
        most = _mm512_max_epu32(most, _mm512_castps_si512(_mm512_abs_ps(_mm512_loadu_ps(x + i))));
    float peak = std::bit_cast<float>(_mm512_reduce_max_epu32(most));
    if (!(peak >= 1e-30f && peak < 0x1p127f)) return quantise(x, block, width, row, tile_block);
    float scale = peak / 127;
    const __m512 inverse = _mm512_set1_ps(127 / peak);
    __m512i sum = _mm512_setzero_si512();
    int32_t half = 0;
    uint8_t* out = tile_block + 4 * (5 * width + row);
    for (int i = 0; i < block; i += 16) {
        __m512i inputs = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), inverse));
        if (i == 16) half = _mm512_reduce_add_epi32(sum);
        sum = _mm512_add_epi32(sum, inputs);
        int32_t fours[4];
        _mm_storeu_si128(reinterpret_cast<__m128i*>(fours), _mm512_cvtepi32_epi8(inputs));
        for (int j = 0; j < 4; j++) std::memcpy(out + (i + 4 * j) * width, fours + j, 4);
    }
    begin_block({scale, _mm512_reduce_add_epi32(sum), half}, width, row, tile_block);
}

}  // namespace

static bool runs_vnni() noexcept {
    return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl");
}

}  // namespace mpsplit
