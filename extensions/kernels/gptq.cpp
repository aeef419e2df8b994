// A panel of 16 rows at a time, column after column: [k][16], so that a vector is one column of all
// of them, and what is read of U serves 16 rows.
#include "gptq.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "block_scale.h"
#include "half.h"
#include "layout.h"
#include "nearest.h"

namespace mpsplit {
namespace {

constexpr int columns_at_once = 8;  // whose sums stay in registers

using Column = float[panel_rows];

struct Problem {
    const Shape& shape;
    const float *u, *matters;
    Scales scales;
};

// As much as each column counts in the search for its block's scale, 1 on average in a block.
std::vector<float> weights_of_columns(const Shape& s, const float* u) {
    std::vector<float> matters(s.k);
    for (int begin = 0; begin < s.k; begin += s.block) {
        double sum = 0;
        for (int j = begin; j < begin + s.block; j++) {
            const double diagonal = u[size_t(j) * s.k + j];
            matters[j] = float(1 / (diagonal * diagonal));
            sum += double(matters[j]);
        }
        for (int j = begin; j < begin + s.block; j++)
            matters[j] = float(double(matters[j]) * s.block / sum);
    }
    return matters;
}

// w -= sum over the block's columns j of u[j][c] * errors[j], for the columns c after the block
void make_up(const Problem& p, int begin, const Column* errors, Column* w) {
    const int block = p.shape.block, k = p.shape.k;
    for (int c = begin + block; c < k; c += columns_at_once) {
        Column sums[columns_at_once];
        std::memcpy(sums, w[c], sizeof sums);
        for (int j = 0; j < block; j++) {
            const float* u = p.u + size_t(begin + j) * k + c;
            for (int i = 0; i < columns_at_once; i++)
                for (int r = 0; r < panel_rows; r++) sums[i][r] -= u[i] * errors[j][r];
        }
        std::memcpy(w[c], sums, sizeof sums);
    }
}

void scales_of(const Problem& p, int begin, const Column* w, float* scales) {
    const Shape& s = p.shape;
    for (int r = 0; r < panel_rows; r++) {
        float row[128];
        int8_t unused[128];
        for (int j = 0; j < s.block; j++) row[j] = w[begin + j][r];
        scales[r] = from_half(fit(row, s.block, s.bits, p.scales, unused, p.matters + begin));
    }
}

// w changes as it goes; values [k][16]
template <int bits>
void round_block(const Problem& p, int begin, const float* scales, Column* w, Column* values,
                 Column* errors) {
    float inverse[panel_rows];
    for (int r = 0; r < panel_rows; r++) inverse[r] = scales[r] == 0 ? 0 : 1 / scales[r];
    for (int j = begin, end = begin + p.shape.block; j < end; j++) {
        const float *u = p.u + size_t(j) * p.shape.k, over = 1 / u[j];
        float* e = errors[j - begin];
        for (int r = 0; r < panel_rows; r++) {
            values[j][r] = nearest<bits>(w[j][r] * inverse[r]);
            e[r] = (w[j][r] - values[j][r] * scales[r]) * over;
        }
        for (int c = j + 1; c < end; c++)
            for (int r = 0; r < panel_rows; r++) w[c][r] -= u[c] * e[r];
    }
}

}  // namespace

void gptq(const Shape& s, const float* rows, const float* u, Scales scales, int8_t* values,
          float* found, ThreadPool& pool) {
    packed_bytes(s);  // refuses what cannot be
    const std::vector<float> matters = weights_of_columns(s, u);
    const Problem problem = {s, u, matters.data(), scales};
    pool.parallel(panels(s.n), [&](int p, int) {
        const auto room = std::make_unique<Column[]>(size_t(2) * s.k + s.block);
        Column *w = room.get(), *rounded = w + s.k, *errors = rounded + s.k;
        const int first = p * panel_rows, have = std::min(panel_rows, s.n - first);
        for (int r = 0; r < have; r++)
            for (int j = 0; j < s.k; j++) w[j][r] = rows[size_t(first + r) * s.k + j];
        for (int begin = 0; begin < s.k; begin += s.block) {
            float here[panel_rows];
            scales_of(problem, begin, w, here);
            with_form(s.bits, [&](auto bits) {
                round_block<decltype(bits)::value>(problem, begin, here, w, rounded, errors);
            });
            make_up(problem, begin, errors, w);
            for (int r = 0; r < have; r++)
                found[size_t(first + r) * (s.k / s.block) + begin / s.block] = here[r];
        }
        for (int r = 0; r < have; r++)
            for (int j = 0; j < s.k; j++)
                values[size_t(first + r) * s.k + j] = int8_t(rounded[j][r]);
    });
}

}  // namespace mpsplit
