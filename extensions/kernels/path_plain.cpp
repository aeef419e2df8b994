// The path of plain C++, which every machine runs and every other path must agree with.
#include "half.h"
#include "path.h"

namespace mpsplit {
namespace {

struct Plain {
    static constexpr int widest = 4;
    static constexpr bool offset = true;
    struct Dots {
        int32_t of[panel_rows];
    };
    struct Floats {
        float of[panel_rows];
    };

    template <int zero>
    static Dots start(int32_t n) {
        Dots dots;
        for (int32_t& dot : dots.of) dot = zero * n;
        return dots;
    }

    static Floats zero() { return {}; }

    static Floats scales(const uint8_t* halfs) {
        Floats scales;
        for (int o = 0; o < panel_rows; o++)
            scales.of[o] = from_half(halfs[2 * o] | halfs[2 * o + 1] << 8);
        return scales;
    }

    static Floats bytes(const uint8_t* at) {
        Floats numbers;
        for (int o = 0; o < panel_rows; o++) numbers.of[o] = float(int8_t(at[o]));
        return numbers;
    }

    static Floats nibbles(const uint8_t* at, bool high) {
        Floats numbers;
        for (int o = 0; o < panel_rows; o++) numbers.of[o] = float(high ? at[o] >> 4 : at[o] & 15);
        return numbers;
    }

    static Floats times(Floats a, const Floats& b) {
        for (int o = 0; o < panel_rows; o++) a.of[o] *= b.of[o];
        return a;
    }

    static Floats accumulate(Floats sum, const Dots& dots, const Floats& scales, float x) {
        for (int o = 0; o < panel_rows; o++) sum.of[o] += float(dots.of[o]) * (scales.of[o] * x);
        return sum;
    }

    static Floats add_times(Floats sum, const Floats& floats, float x) {
        for (int o = 0; o < panel_rows; o++) sum.of[o] += floats.of[o] * x;
        return sum;
    }

    static void store(float* y, const Floats& sum) { std::memcpy(y, sum.of, sizeof sum.of); }

    template <int bits, Half half, int width>
    static void chunk(const uint8_t* lines, const int32_t* inputs, Dots (&dots)[width]) {
        Groups weights;
        decode<bits>(lines, weights);
        const int begin = half == Half::second ? groups / 2 : 0,
                  end = half == Half::first ? groups / 2 : groups;
        for (int g = begin; g < end; g++)
            for (int r = 0; r < width; r++) {
                int8_t x[4];
                std::memcpy(x, inputs + g * width + r, 4);
                for (int o = 0; o < panel_rows; o++) {
                    const uint8_t* w = weights[g] + 4 * o;
                    dots[r].of[o] += w[0] * x[0] + w[1] * x[1] + w[2] * x[2] + w[3] * x[3];
                }
            }
    }

    static Floats add(Floats a, const Floats& b) {
        for (int o = 0; o < panel_rows; o++) a.of[o] += b.of[o];
        return a;
    }

    template <int width>
    static void line_of_pairs(const uint8_t* at, const int32_t* inputs, Floats (&sums)[width]) {
        for (int r = 0; r < width; r++) {
            uint16_t x[2], w[2];
            std::memcpy(x, inputs + r, 4);
            for (int o = 0; o < panel_rows; o++) {
                std::memcpy(w, at + 4 * o, 4);
                sums[r].of[o] +=
                    from_bfloat(w[0]) * from_bfloat(x[0]) + from_bfloat(w[1]) * from_bfloat(x[1]);
            }
        }
    }
};

}  // namespace

extern constinit const Path plain_path = path_of<Plain>("plain", [] { return true; });

}  // namespace mpsplit
