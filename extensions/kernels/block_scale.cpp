// Sums are over 16 lanes written out, which the compiler turns into vectors of any width without
// changing a bit.
#include "block_scale.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "half.h"
#include "layout.h"

namespace mpsplit {
namespace {

constexpr int lanes = 16;
constexpr float biggest_half = 65504;
constexpr int largest_block = 128;

constexpr auto alike = [] {
    std::array<float, largest_block> ones;
    ones.fill(1);
    return ones;
}();

struct Range {
    float low, high;
};

float rounded(float x, Range range) {
    const float whole = 0x1.8p23f;  // leaves no room for a fraction, ties go to even
    x = std::min(std::max(x, range.low), range.high);
    return (x + whole) - whole;
}

float total(const float (&sums)[lanes]) {
    float sum = 0;
    for (float s : sums) sum += s;
    return sum;
}

// A block of weights w, and how much the square of each one's error counts.
struct Block {
    const float *w, *matters;
    int size;
};

// sum of matters * (w - scale * integer)^2
float squared_error(const Block& b, float scale, Range range) {
    const float inverse = 1 / scale;
    float sums[lanes] = {};
    for (int i = 0; i < b.size; i += lanes)
        for (int l = 0; l < lanes; l++) {
            float lost = b.w[i + l] - scale * rounded(b.w[i + l] * inverse, range);
            sums[l] += b.matters[i + l] * (lost * lost);
        }
    return total(sums);
}

// With the integers that a scale gives, the scale that they had better had: sum of matters * w *
// integer / sum of matters * integer^2
float better_scale(const Block& b, float scale, Range range) {
    const float inverse = 1 / scale;
    float products[lanes] = {}, squares[lanes] = {};
    for (int i = 0; i < b.size; i += lanes)
        for (int l = 0; l < lanes; l++) {
            float q = rounded(b.w[i + l] * inverse, range);
            products[l] += b.matters[i + l] * (b.w[i + l] * q);
            squares[l] += b.matters[i + l] * (q * q);
        }
    float divisor = total(squares);
    return divisor > 0 ? total(products) / divisor : scale;
}

float step_of(int bits) { return bits == 4 ? 0.04f : bits == 6 ? 0.015f : 0.004f; }

struct Best {
    uint16_t half;
    float error;
};

void consider(Best& best, const Block& b, float scale, Range range) {
    const uint16_t half = to_half(scale);
    const float stored = from_half(half);
    if (!(std::fabs(stored) > 0 && std::fabs(stored) <= biggest_half)) return;
    const float error = squared_error(b, stored, range);
    if (error < best.error) best = {half, error};
}

// `peak` has its sign: it becomes the lowest integer, or the highest, or a little beyond and is cut
// off
uint16_t search(const Block& b, int bits, float peak, uint16_t minmax) {
    const Range range = {float(-zero_point(bits)), float(largest(bits))};
    const float step = step_of(bits);
    Best best = {minmax, squared_error(b, from_half(minmax), range)};
    for (int i = -2; i < 10; i++)
        consider(best, b, peak / range.low * (1 - step * float(i)), range);
    for (int i = -1; i < 9; i++)
        consider(best, b, peak / range.high * (1 - step * float(i)), range);
    consider(best, b, better_scale(b, from_half(best.half), range), range);
    return best.half;
}

}  // namespace

uint16_t fit(const float* w, int block, int bits, Scales method, int8_t* values,
             const float* matters) {
    const float most = float(largest(bits));
    float peak = 0;
    for (int i = 0; i < block; i++) peak = std::fabs(w[i]) > std::fabs(peak) ? w[i] : peak;
    uint16_t half = to_half(std::min(std::fabs(peak) / most, biggest_half));
    if (from_half(half) == 0) {
        std::fill_n(values, block, int8_t(0));
        return half;
    }
    const bool searched = method == Scales::mse && std::isfinite(peak);
    if (searched) half = search({w, matters ? matters : alike.data(), block}, bits, peak, half);
    // the integers fit the scale that is stored
    const float scale = from_half(half), low = searched ? float(-zero_point(bits)) : -most;
    for (int i = 0; i < block; i++)
        values[i] = int8_t(std::lrint(std::clamp(w[i] / scale, low, most)));
    return half;
}

}  // namespace mpsplit
