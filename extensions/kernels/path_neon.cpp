// The path of aarch64 with the dot-product extension: sdot multiplies 4 x 4 weights by four inputs.
#include <arm_neon.h>
#include <sys/auxv.h>

#include "path.h"

namespace mpsplit {
namespace {

constexpr int quarters = 4;  // a line is four registers of four outputs

struct Pair {
    int8x16_t low, high;  // Gj and G(j+4) of layout.h, 4 of the 16 outputs
};

template <int bits>
[[gnu::always_inline]] inline Pair pair(const uint8_t* lines, int j) {
    auto as_signed = [](uint8x16_t v) { return vreinterpretq_s8_u8(v); };
    constexpr Form form = form_of(bits);
    if constexpr (form.stored == 8) {
        const uint8x16_t sign = vdupq_n_u8(128);
        return {as_signed(veorq_u8(vld1q_u8(lines + j * line), sign)),
                as_signed(veorq_u8(vld1q_u8(lines + (j + 4) * line), sign))};
    }
    constexpr Plane lower = lower_plane(form.stored), upper = upper_plane(form.stored);
    auto taken = [&](Plane plane, int from) {
        const uint8x16_t there = vld1q_u8(lines + place_in(plane, j).line * line);
        return vandq_u8(vshlq_u8(there, vdupq_n_s8(int8_t(plane.first - from))),
                        vdupq_n_u8(uint8_t(mask_of(plane) << plane.first)));
    };
    uint8x16_t low = taken(lower, place_in(lower, j).low),
               high = taken(lower, place_in(lower, j).high);
    if constexpr (upper.bits != 0) {
        low = vorrq_u8(low, taken(upper, place_in(upper, j).low));
        high = vorrq_u8(high, taken(upper, place_in(upper, j).high));
    }
    if constexpr (form.by_table()) {
        const int8x16_t values =
            vaddq_s8(vld1q_s8(form.values), vdupq_n_s8(form.zero == 128 ? 0 : form.zero));
        return {vqtbl1q_s8(values, low), vqtbl1q_s8(values, high)};
    }
    return {as_signed(low), as_signed(high)};
}

struct Neon {
    static constexpr int widest = 4;
    static constexpr bool offset = false;
    struct Dots {
        int32x4_t quarter[quarters];
    };
    struct Floats {
        float32x4_t quarter[quarters];
    };

    template <int zero>
    static Dots start(int32_t n) {
        const int32x4_t all = vdupq_n_s32(zero * n);
        return {all, all, all, all};
    }
    static Floats zero() {
        return {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
    }
    static Floats scales(const uint8_t* halfs) {
        Floats scales;
        for (int q = 0; q < quarters; q++)
            scales.quarter[q] = vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(halfs + 8 * q)));
        return scales;
    }
    static Floats numbers_of(uint8x16_t bytes, bool is_signed) {
        Floats numbers;
        const int16x8_t eights[] = {widened(vget_low_u8(bytes), is_signed),
                                    widened(vget_high_u8(bytes), is_signed)};
        for (int q = 0; q < quarters; q++)
            numbers.quarter[q] = vcvtq_f32_s32(
                vmovl_s16(q % 2 ? vget_high_s16(eights[q / 2]) : vget_low_s16(eights[q / 2])));
        return numbers;
    }
    static int16x8_t widened(uint8x8_t bytes, bool is_signed) {
        return is_signed ? vmovl_s8(vreinterpret_s8_u8(bytes))
                         : vreinterpretq_s16_u16(vmovl_u8(bytes));
    }
    static Floats bytes(const uint8_t* at) { return numbers_of(vld1q_u8(at), true); }
    static Floats nibbles(const uint8_t* at, bool high) {
        const uint8x16_t both = vld1q_u8(at);
        return numbers_of(high ? vshrq_n_u8(both, 4) : vandq_u8(both, vdupq_n_u8(15)), false);
    }
    static Floats times(Floats a, const Floats& b) {
        for (int q = 0; q < quarters; q++) a.quarter[q] = vmulq_f32(a.quarter[q], b.quarter[q]);
        return a;
    }
    static Floats accumulate(Floats sum, const Dots& dots, const Floats& scales, float x) {
        for (int q = 0; q < quarters; q++)
            sum.quarter[q] = vfmaq_f32(sum.quarter[q], vcvtq_f32_s32(dots.quarter[q]),
                                       vmulq_n_f32(scales.quarter[q], x));
        return sum;
    }
    static Floats add_times(Floats sum, const Floats& floats, float x) {
        for (int q = 0; q < quarters; q++)
            sum.quarter[q] = vfmaq_n_f32(sum.quarter[q], floats.quarter[q], x);
        return sum;
    }
    static void store(float* y, const Floats& sum) {
        for (int q = 0; q < quarters; q++) vst1q_f32(y + 4 * q, sum.quarter[q]);
    }

    template <int bits, Half half, int width>
    static void chunk(const uint8_t* lines, const int32_t* inputs, Dots (&dots)[width]) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
#pragma GCC unroll 4
            for (int q = 0; q < quarters; q++) {
                Pair w = pair<bits>(lines + 16 * q, j);
#pragma GCC unroll 4
                for (int r = 0; r < width; r++) {
                    int32x4_t& dot = dots[r].quarter[q];
                    auto add = [&](int8x16_t weights, int32_t x) {
                        dot = vdotq_s32(dot, weights, vreinterpretq_s8_s32(vdupq_n_s32(x)));
                    };
                    if (half != Half::second) add(w.low, inputs[j * width + r]);
                    if (half != Half::first) add(w.high, inputs[(j + 4) * width + r]);
                }
            }
    }

    static Floats add(Floats a, const Floats& b) {
        for (int q = 0; q < quarters; q++) a.quarter[q] = vaddq_f32(a.quarter[q], b.quarter[q]);
        return a;
    }

    // a bfloat16 is the upper half of a float32
    template <int width>
    static void line_of_pairs(const uint8_t* at, const int32_t* inputs, Floats (&sums)[width]) {
#pragma GCC unroll 4
        for (int q = 0; q < quarters; q++) {
            const uint32x4_t w = vreinterpretq_u32_u8(vld1q_u8(at + 16 * q)),
                             upper = vdupq_n_u32(0xffff0000);
            const float32x4_t first = vreinterpretq_f32_u32(vshlq_n_u32(w, 16)),
                              second = vreinterpretq_f32_u32(vandq_u32(w, upper));
#pragma GCC unroll 4
            for (int r = 0; r < width; r++) {
                const uint32_t x = uint32_t(inputs[r]);
                float32x4_t& sum = sums[r].quarter[q];
                sum = vfmaq_n_f32(sum, first, std::bit_cast<float>(x << 16));
                sum = vfmaq_n_f32(sum, second, std::bit_cast<float>(x & 0xffff0000u));
            }
        }
    }
};

}  // namespace

extern constinit const Path neon_path =
    path_of<Neon>("neon", [] { return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0; });

}  // namespace mpsplit
