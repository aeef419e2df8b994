// One parallel region for all products of an x: the threads quantise x together, then each takes
// its share of the panels. Of a few rows the caller quantises x alone.
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <stdexcept>

#include "exponential.h"
#include "path.h"

namespace mpsplit {
namespace {

// Tiles of x that a thread walks through for every panel before it takes more rows: what its second
// cache holds beside a panel.
constexpr size_t rows_in_cache = 384 << 10;

// thread's part of 0 .. count - 1
struct Share {
    int begin, end;
};
Share share(int64_t count) {
    int64_t me = omp_get_thread_num(), all = omp_get_num_threads();
    return {int(count * me / all), int(count * (me + 1) / all)};
}

struct Work {
    const Product* products;
    int count;
    const float* x;
    int rows;
    Shape shape;  // of the first product; of the others n and maybe bits are their own
    uint8_t* scratch;
    const Path* path;

    int blocks() const { return mpsplit::blocks(shape); }
    size_t tile_block(int width) const {
        return tile_block_bytes(width, shape.block, is_float(shape.bits));
    }
    int panels() const {
        int sum = 0;
        for (int i = 0; i < count; i++) sum += mpsplit::panels(products[i].weights.shape.n);
        return sum;
    }
    int tiles() const { return tile_count(rows, path->widest); }
    Tile tile(int t) const { return tile_at(rows, path->widest, t); }
    uint8_t* quantised(Tile tile) const {
        return scratch + size_t(tile.first) * blocks() * tile_block(1);
    }
};

// Blocks begin .. end of x, tile after tile, the rows of a tile side by side
void quantise_blocks(const Work& work, Share mine) {
    Tile tile = {};
    int number = -1;
    for (int i = mine.begin; i < mine.end; i++) {
        if (i / work.blocks() != number) tile = work.tile(number = i / work.blocks());
        int b = i - number * work.blocks();
        uint8_t* out = work.quantised(tile) + b * work.tile_block(tile.width);
        for (int r = 0; r < tile.width; r++) {
            const Shape& s = work.shape;
            const float* x = work.x + size_t(tile.first + r) * s.k + size_t(b) * s.block;
            if (is_float(s.bits))
                narrow(x, std::min(s.block, s.k - b * s.block), s.block, tile.width, r, out);
            else
                work.path->quantise(x, s.block, tile.width, r, out);
        }
    }
}

// What becomes of the sums [width, 16] of panel p: they are stored with what the product adds; or,
// of a gate, their silu is stored; or what is stored is multiplied by them. Two straight reads of
// two matrices are faster than one back and forth.
enum class Put { sum, silu, times };

template <Put how>
void put(const Product& product, int p, Tile tile, const float* sums) {
    int n = product.weights.shape.n, column = p * panel_rows;
    const float* bias = product.bias ? product.bias + column : nullptr;
    for (int r = 0; r < tile.width; r++, sums += panel_rows) {
        size_t at = size_t(tile.first + r) * n + column;
        const float* residual = product.residual ? product.residual + at : nullptr;
        float* y = product.y + at;
        auto columns = [&](auto count) {
            for (int o = 0; o < count; o++) {
                if constexpr (how == Put::silu) y[o] = sums[o] / (1 + exponential(-sums[o]));
                if constexpr (how == Put::times) y[o] *= sums[o];
                if constexpr (how == Put::sum)
                    y[o] = sums[o] + (bias ? bias[o] : 0) + (residual ? residual[o] : 0);
            }
        };
        if (n - column >= panel_rows)  // a number that the compiler knows: whole vectors
            columns(std::integral_constant<int, panel_rows>());
        else
            columns(n - column);
    }
}

// Panels begin .. end of one matrix, for tiles first .. last of x
template <Put how>
void some_panels(const Work& work, const Product& product, const Weights& weights, Share mine,
                 Share tiles) {
    float sums[8 * panel_rows];
    for (int p = mine.begin; p < mine.end; p++)
        for (int t = tiles.begin; t < tiles.end; t++) {
            Tile tile = work.tile(t);
            work.path->panel(weights.shape, weights.data + p * panel_bytes(weights.shape),
                             work.quantised(tile), tile.width, sums);
            put<how>(product, p, tile, sums);
        }
}

// Panels begin .. end of all products, seen as one list
void panels_of_share(const Work& work, Share mine, Share tiles) {
    int before = 0;
    for (int i = 0; i < work.count; i++) {
        const Product& product = work.products[i];
        int count = panels(product.weights.shape.n);
        Share own = {std::max(mine.begin - before, 0), std::min(mine.end - before, count)};
        if (product.gate) {
            some_panels<Put::silu>(work, product, *product.gate, own, tiles);
            some_panels<Put::times>(work, product, product.weights, own, tiles);
        } else
            some_panels<Put::sum>(work, product, product.weights, own, tiles);
        before += count;
    }
}

// Panels begin .. end for all rows, as many rows at a time as a thread's second cache holds
void all_rows(const Work& work, Share mine) {
    const size_t tile = size_t(work.blocks()) * work.tile_block(work.path->widest);
    const int step = std::max(1, int(rows_in_cache / tile));
    for (int t = 0; t < work.tiles(); t += step)
        panels_of_share(work, mine, {t, std::min(t + step, work.tiles())});
}

// Each thread has an equal share of the first three quarters, to read straight on. Of the rest
// whoever is done takes the next piece: memory does not serve all alike, and the slowest would hold
// up the others.
void multiply_share(const Work& work, std::atomic<int>& taken) {
    const int total = work.panels(), threads = omp_get_num_threads(),
              fixed = threads > 1 ? total / 4 * 3 : total;
    const int piece = std::max(1, total / (threads * 32));
    all_rows(work, share(fixed));
    for (int p; (p = fixed + taken.fetch_add(piece)) < total;)
        all_rows(work, {p, std::min(p + piece, total)});
}

void check(const Product* products, int count, int rows, int threads, const Path* path) {
    if (count < 1 || rows < 1 || threads < 1 || !path)
        throw std::invalid_argument(
            "multiply wants products, rows, threads and a path that runs here");
    const Shape& first = products->weights.shape;
    auto fits = [&](const Shape& s) {
        return s.k == first.k && s.block == first.block && is_float(s.bits) == is_float(first.bits);
    };
    for (int i = 0; i < count; i++) {
        const Product& p = products[i];
        if (!fits(p.weights.shape) ||
            (p.gate && !(fits(p.gate->shape) && p.gate->shape.n == p.weights.shape.n)))
            throw std::invalid_argument(
                "products of one x have one k and one block, all in integers or all in bfloat16, "
                "and a gate the n of its pair");
        if (p.gate && (p.bias || p.residual))
            throw std::invalid_argument("a gated product adds neither bias nor residual");
    }
}

}  // namespace

size_t scratch_bytes(int rows, const Shape& s) {
    return size_t(rows) * blocks(s) * tile_block_bytes(1, s.block, is_float(s.bits));
}

void multiply(const Product* products, int count, const float* x, int rows, void* scratch,
              int threads, const Path* path) {
    check(products, count, rows, threads, path);
    const Shape& shape = products->weights.shape;
    Work work = {products, count, x, rows, shape, static_cast<uint8_t*>(scratch), path};
    const int64_t blocks = int64_t(work.tiles()) * work.blocks();
    // a few microseconds' work: less than a barrier, much less where another process holds a core
    const bool few = rows <= 4;
    if (few) quantise_blocks(work, {0, int(blocks)});
    std::atomic<int> taken = 0;  // panels of the part that is not shared out beforehand
#pragma omp parallel num_threads(threads)
    {
        if (!few) {
            quantise_blocks(work, share(blocks));
#pragma omp barrier
        }
        multiply_share(work, taken);
    }
}

}  // namespace mpsplit
