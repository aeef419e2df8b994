// Attention against the plain sum over all positions in double, without Python: what runs under an
// emulator and the sanitizers.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "attention.h"
#include "normal_numbers.h"

using namespace mpsplit;

namespace {

struct Case {
    int heads, kv_heads, dim, window, threads;
    std::vector<int> pieces;
    Stored stored;
};

// head `head` of row `row` of x, turned by the angle of its position
std::vector<double> turned(const std::vector<float>& x, int row, int head, int heads, int dim) {
    std::vector<double> y(dim);
    const float* from = x.data() + (size_t(row) * heads + head) * dim;
    for (int i = 0; i < dim / 2; i++) {
        double angle = row * 0.1 * (i + 1), c = std::cos(angle), s = std::sin(angle);
        y[i] = from[i] * c - from[i + dim / 2] * s;
        y[i + dim / 2] = from[i] * s + from[i + dim / 2] * c;
    }
    return y;
}

std::vector<double> expected(const Case& c, const std::vector<float>& q,
                             const std::vector<float>& k, const std::vector<float>& v, int rows) {
    std::vector<double> y(size_t(rows) * c.heads * c.dim);
    for (int row = 0; row < rows; row++)
        for (int head = 0; head < c.heads; head++) {
            const int kv = head / (c.heads / c.kv_heads);
            const auto asks = turned(q, row, head, c.heads, c.dim);
            double sum = 0;
            double* out = y.data() + (size_t(row) * c.heads + head) * c.dim;
            for (int j = c.window ? std::max(0, row - c.window + 1) : 0; j <= row; j++) {
                const auto key = turned(k, j, kv, c.kv_heads, c.dim);
                double score = 0;
                for (int i = 0; i < c.dim; i++) score += asks[i] * key[i];
                const double weight = std::exp(0.3 * score);
                sum += weight;
                for (int i = 0; i < c.dim; i++)
                    out[i] += weight * v[(size_t(j) * c.kv_heads + kv) * c.dim + i];
            }
            for (int i = 0; i < c.dim; i++) out[i] /= sum;
        }
    return y;
}

bool agree(const Case& c) {
    int rows = 0;
    for (int piece : c.pieces) rows += piece;
    const size_t wide = size_t(c.heads) * c.dim, narrow = size_t(c.kv_heads) * c.dim;
    const auto q = normal(rows * wide), k = normal(rows * narrow), v = normal(rows * narrow);
    std::vector<float> cos, sin, y(rows * wide);
    for (int row = 0; row < rows; row++)
        for (int i = 0; i < c.dim / 2; i++) {
            cos.push_back(float(std::cos(row * 0.1 * (i + 1))));
            sin.push_back(float(std::sin(row * 0.1 * (i + 1))));
        }
    // two runs of the same in every step, their pages mixed
    const int pages = rows / KeyValueCache::page_positions + 1;
    std::vector<int32_t> tables[2];
    for (int page = 0; page < pages; page++) {
        tables[0].push_back(2 * (pages - page) - 1);
        tables[1].push_back(2 * page);
    }
    KeyValueCache cache(c.kv_heads, c.dim, 2 * pages, c.stored);
    const Attention attention = {cache, c.heads, 0.3f, c.window, {cos.data(), sin.data()}};
    int at = 0;
    for (int piece : c.pieces) {
        auto twice = [&](const std::vector<float>& x, size_t width) {
            const float *begin = x.data() + at * width, *end = begin + piece * width;
            std::vector<float> found(begin, end);
            found.insert(found.end(), begin, end);
            return found;
        };
        const auto qs = twice(q, wide), ks = twice(k, narrow), vs = twice(v, narrow);
        const Run runs[] = {{piece, at, tables[0].data()}, {piece, at, tables[1].data()}};
        std::vector<float> ys(qs.size());
        std::unique_ptr<void, decltype(&std::free)> scratch(
            std::aligned_alloc(
                64,
                (attention_scratch_floats(attention, c.threads) * sizeof(float) + 63) / 64 * 64),
            std::free);
        static ThreadPool pools[] = {ThreadPool(1), ThreadPool(2)};
        attend(attention, runs, {qs.data(), wide}, {ks.data(), narrow}, {vs.data(), narrow},
               ys.data(), static_cast<float*>(scratch.get()), pools[c.threads - 1]);
        const size_t half = ys.size() / 2;
        if (!std::equal(ys.data(), ys.data() + half, ys.data() + half)) {
            std::printf("two runs of the same differ, heads %d/%d dim %d at %d\n", c.heads,
                        c.kv_heads, c.dim, at);
            return false;
        }
        std::copy_n(ys.data(), half, y.data() + at * wide);
        at += piece;
    }
    const double off = c.stored == Stored::f32 ? 1e-4 : 0.2;
    const auto wanted = expected(c, q, k, v, rows);
    for (size_t i = 0; i < y.size(); i++)
        if (!(std::fabs(y[i] - wanted[i]) <= off)) {
            std::printf(
                "heads %d/%d dim %d window %d threads %d rows %d: y[%zu] is %g, expected %g\n",
                c.heads, c.kv_heads, c.dim, c.window, c.threads, rows, i, y[i], wanted[i]);
            return false;
        }
    return true;
}

}  // namespace

int main() {
    bool good = true;
    int cases = 0;
    for (auto [heads, kv_heads] : {std::pair(1, 1), {4, 1}, {6, 2}, {16, 2}})
        for (int dim : {8, 24, 64})
            for (int window : {0, 1, 11, 40})
                for (int threads : {1, 2})
                    for (const auto& pieces :
                         std::vector<std::vector<int>>{{1, 1, 1}, {7, 1}, {33, 1, 31}, {64, 1, 1}})
                        good = good && agree({heads, kv_heads, dim, window, threads, pieces,
                                              Stored(++cases % 3)});
    // more positions than are gone through at once
    for (int window : {0, 11, 270})
        for (int threads : {1, 2})
            for (Stored stored : {Stored::f32, Stored::bf16, Stored::q8})
                good = good && agree({6, 2, 24, window, threads, {300, 1, 250}, stored});
    std::printf("%s\n", good ? "agree" : "DISAGREE");
    return good ? 0 : 1;
}
