// Sums are over 16 lanes written out, which the compiler turns into vectors of any width without
// changing a bit.
#include "block_scale.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "half.h"
#include "nearest.h"

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
template <int bits>
float squared_error(const Block& b, float scale) {
    const float inverse = 1 / scale;
    float sums[lanes] = {};
    for (int i = 0; i < b.size; i += lanes)
        for (int l = 0; l < lanes; l++) {
            float lost = b.w[i + l] - scale * nearest<bits>(b.w[i + l] * inverse);
            sums[l] += b.matters[i + l] * (lost * lost);
        }
    return total(sums);
}

// With the integers that a scale gives, the scale that they had better had: sum of matters * w *
// integer / sum of matters * integer^2
template <int bits>
float better_scale(const Block& b, float scale) {
    const float inverse = 1 / scale;
    float products[lanes] = {}, squares[lanes] = {};
    for (int i = 0; i < b.size; i += lanes)
        for (int l = 0; l < lanes; l++) {
            float q = nearest<bits>(b.w[i + l] * inverse);
            products[l] += b.matters[i + l] * (b.w[i + l] * q);
            squares[l] += b.matters[i + l] * (q * q);
        }
    float divisor = total(squares);
    return divisor > 0 ? total(products) / divisor : scale;
}

constexpr float step_of(const Form& form) {
    return form.stored < 4 ? 0.055f : form.stored == 4 ? 0.04f : form.stored == 6 ? 0.015f : 0.004f;
}

struct Best {
    uint16_t half;
    float error;
};

template <int bits>
void consider(Best& best, const Block& b, float scale) {
    const uint16_t half = to_half(scale);
    const float stored = from_half(half);
    if (!(std::fabs(stored) > 0 && std::fabs(stored) <= biggest_half)) return;
    const float error = squared_error<bits>(b, stored);
    if (error < best.error) best = {half, error};
}

// `peak` has its sign: it becomes the lowest integer, or the highest, or a little beyond and is cut
// off
template <int bits>
uint16_t search(const Block& b, float peak, uint16_t minmax) {
    constexpr Form form = form_of(bits);
    constexpr float step = step_of(form);
    Best best = {minmax, squared_error<bits>(b, from_half(minmax))};
    for (int i = -2; i < 10; i++)
        consider<bits>(best, b, peak / float(form.low) * (1 - step * float(i)));
    for (int i = -1; i < 9; i++)
        consider<bits>(best, b, peak / float(form.high) * (1 - step * float(i)));
    consider<bits>(best, b, better_scale<bits>(b, from_half(best.half)));
    return best.half;
}

template <int bits>
uint16_t fit_form(const Block& b, Scales method, int8_t* values) {
    constexpr Form form = form_of(bits);
    const float most = float(form.high);
    float peak = 0;
    for (int i = 0; i < b.size; i++) peak = std::fabs(b.w[i]) > std::fabs(peak) ? b.w[i] : peak;
    // the peak becomes the largest integer; of a table its least value, which is farther from 0
    const float scale_of_peak = form.by_table() ? peak / float(form.low) : std::fabs(peak) / most;
    uint16_t half = to_half(std::clamp(scale_of_peak, -biggest_half, biggest_half));
    if (from_half(half) == 0) {
        std::fill_n(values, b.size, int8_t(form.smallest));
        return half;
    }
    const bool searched = method == Scales::mse && std::isfinite(peak);
    if (searched) half = search<bits>(b, peak, half);
    // the integers fit the scale that is stored
    const float scale = from_half(half),
                low = searched || form.by_table() ? float(form.low) : -most;
    for (int i = 0; i < b.size; i++)
        values[i] = int8_t(std::lrint(nearest<bits>(std::clamp(b.w[i] / scale, low, most))));
    return half;
}

}  // namespace

uint16_t fit(const float* w, int block, int bits, Scales method, int8_t* values,
             const float* matters) {
    uint16_t half = 0;
    with_form(bits, [&](auto known) {
        half = fit_form<decltype(known)::value>({w, matters ? matters : alike.data(), block},
                                                method, values);
    });
    return half;
}

}  // namespace mpsplit
