// One parallel region for all products of an x: the threads quantise x together, then each takes its share of the
// panels. Of a few rows the caller quantises x alone.
#include <omp.h>

#include <algorithm>
#include <bit>
#include <stdexcept>

#include "exponential.h"
#include "path.h"

namespace mpsplit {
namespace {

// Tiles of x that a thread walks through for every panel before it takes more rows: what its second cache holds beside
// a panel.
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
    int rows, k, block;
    uint8_t* scratch;
    const Path* path;

    int blocks() const { return k / block; }
    int tiles() const { return tile_count(rows, path->widest); }
    Tile tile(int t) const { return tile_at(rows, path->widest, t); }
    uint8_t* quantised(Tile tile) const { return scratch + size_t(tile.first) * blocks() * tile_block_bytes(1, block); }
};

void quantise_blocks(const Work& work, Share mine) {
    for (int i = mine.begin; i < mine.end; i++) {
        Tile tile = work.tile(i / work.blocks());
        int b = i % work.blocks();
        uint8_t* out = work.quantised(tile) + b * tile_block_bytes(tile.width, work.block);
        for (int r = 0; r < tile.width; r++) {
            const float* x = work.x + size_t(tile.first + r) * work.k + size_t(b) * work.block;
            work.path->quantise(x, work.block, tile.width, r, out);
        }
    }
}

void silu_times(const float* gate, float* sums, int count) {
    for (int i = 0; i < count; i++) sums[i] *= gate[i] / (1 + exponential(-gate[i]));
}

// sums [width, 16] of panel p into their place in y, with what the product adds
void put(const Product& product, int p, Tile tile, const float* sums) {
    int n = product.weights.shape.n, column = p * panel_rows, columns = std::min(panel_rows, n - column);
    for (int r = 0; r < tile.width; r++, sums += panel_rows) {
        size_t at = size_t(tile.first + r) * n + column;
        for (int o = 0; o < columns; o++) {
            float y = sums[o];
            if (product.bias) y += product.bias[column + o];
            if (product.residual) y += product.residual[at + o];
            product.y[at + o] = y;
        }
    }
}

void one_tile(const Work& work, const Product& product, int p, Tile tile) {
    float sums[8 * panel_rows], gate[8 * panel_rows];
    auto times = [&](const Weights& w, float* out) {
        work.path->panel(w.shape, w.data + p * panel_bytes(w.shape), work.quantised(tile), tile.width, out);
    };
    times(product.weights, sums);
    if (product.gate) {
        times(*product.gate, gate);
        silu_times(gate, sums, tile.width * panel_rows);
    }
    put(product, p, tile, sums);
}

// Panels begin .. end of all products, seen as one list, for tiles first .. last of x
void panels_of_share(const Work& work, Share mine, Share tiles) {
    int before = 0;
    for (int i = 0; i < work.count; i++) {
        const Product& product = work.products[i];
        int count = panels(product.weights.shape.n);
        for (int p = std::max(mine.begin - before, 0); p < std::min(mine.end - before, count); p++)
            for (int t = tiles.begin; t < tiles.end; t++) one_tile(work, product, p, work.tile(t));
        before += count;
    }
}

void multiply_share(const Work& work) {
    int64_t total = 0;
    for (int i = 0; i < work.count; i++) total += panels(work.products[i].weights.shape.n);
    Share mine = share(total);
    int step = std::max<int>(1, rows_in_cache / (work.blocks() * tile_block_bytes(work.path->widest, work.block)));
    for (int t = 0; t < work.tiles(); t += step) panels_of_share(work, mine, {t, std::min(t + step, work.tiles())});
}

void check(const Product* products, int count, int rows, int threads, const Path* path) {
    if (count < 1 || rows < 1 || threads < 1 || !path)
        throw std::invalid_argument("multiply wants products, rows, threads and a path that runs here");
    const Shape& first = products->weights.shape;
    auto fits = [&](const Shape& s) { return s.k == first.k && s.block == first.block; };
    for (int i = 0; i < count; i++) {
        const Product& p = products[i];
        if (!fits(p.weights.shape) || (p.gate && !(fits(p.gate->shape) && p.gate->shape.n == p.weights.shape.n)))
            throw std::invalid_argument("products of one x have one k and one block, and a gate the n of its pair");
        if (p.gate && (p.bias || p.residual))
            throw std::invalid_argument("a gated product adds neither bias nor residual");
    }
}

}  // namespace

size_t scratch_bytes(int rows, int k, int block) { return size_t(rows) * (k / block) * tile_block_bytes(1, block); }

void multiply(const Product* products, int count, const float* x, int rows, void* scratch, int threads,
              const Path* path) {
    check(products, count, rows, threads, path);
    const Shape& shape = products->weights.shape;
    Work work = {products, count, x, rows, shape.k, shape.block, static_cast<uint8_t*>(scratch), path};
    const int64_t blocks = int64_t(work.tiles()) * work.blocks();
    const bool few =
        rows <= 4;  // a few microseconds' work: less than a barrier, much less where another process holds a core
    if (few) quantise_blocks(work, {0, int(blocks)});
#pragma omp parallel num_threads(threads)
    {
        if (!few) {
            quantise_blocks(work, share(blocks));
#pragma omp barrier
        }
        multiply_share(work);
    }
}

}  // namespace mpsplit
