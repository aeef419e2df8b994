// All products of an x: the threads quantise x together, then they share out the panels. Of a few
// rows the caller quantises x alone. A helper makes its panels apart, from a copy of what it needs:
// a part of a helper that another process has displaced is taken back.
#include <algorithm>
#include <bit>
#include <cstring>
#include <new>
#include <stdexcept>

#include "exponential.h"
#include "path.h"

namespace mpsplit {
namespace {

// Tiles of x that a thread walks through for every panel before it takes more rows: what its second
// cache holds beside a panel.
constexpr size_t rows_in_cache = 384 << 10;

// some of 0 .. count - 1
struct Share {
    int begin, end;
};
Share share(int64_t count, int64_t part, int64_t parts) {
    return {int(count * part / parts), int(count * (part + 1) / parts)};
}
Share part_of(Share whole, int part, int parts) {
    const Share within = share(whole.end - whole.begin, part, parts);
    return {whole.begin + within.begin, whole.begin + within.end};
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

// columns of one panel, of which `there` exist; with all of them the compiler knows the number
void each_column(int there, auto&& columns) {
    if (there >= panel_rows)
        columns(std::integral_constant<int, panel_rows>());
    else
        columns(there);
}

// What a sum becomes beside what its product adds
void add(const float* sums, const float* bias, const float* residual, auto count, float* y) {
    for (int o = 0; o < count; o++)
        y[o] = sums[o] + (bias ? bias[o] : 0) + (residual ? residual[o] : 0);
}

// Some panels of some tiles of a product's y: in their place, or apart from it and without what the
// product adds.
struct Region {
    const Product& product;
    Share panels;
    Tile rows;
    float* apart;  // [rows, 16 panels], nullptr: in their place

    int n() const { return product.weights.shape.n; }
    int stride() const { return panel_rows * (panels.end - panels.begin); }
    int there(int p) const { return std::min(panel_rows, n() - p * panel_rows); }
    size_t in_place(int row, int p) const { return size_t(row) * n() + p * panel_rows; }
    float* y(int row, int p) const {
        if (!apart) return product.y + in_place(row, p);
        return apart + size_t(row - rows.first) * stride() + (p - panels.begin) * panel_rows;
    }
    const float* bias(int p) const {
        return product.bias ? product.bias + p * panel_rows : nullptr;
    }
    const float* residual(int row, int p) const {
        return product.residual ? product.residual + in_place(row, p) : nullptr;
    }
    // from apart into its place
    void put() const {
        for (int row = rows.first; row < rows.first + rows.width; row++)
            for (int p = panels.begin; p < panels.end; p++)
                each_column(there(p), [&](auto count) {
                    add(y(row, p), bias(p), residual(row, p), count, product.y + in_place(row, p));
                });
    }
};

template <Put how>
void put(const Region& region, int p, Tile tile, const float* sums) {
    for (int row = tile.first; row < tile.first + tile.width; row++, sums += panel_rows) {
        float* y = region.y(row, p);
        each_column(region.there(p), [&](auto count) {
            for (int o = 0; o < count; o++) {
                if constexpr (how == Put::silu) y[o] = sums[o] / (1 + exponential(-sums[o]));
                if constexpr (how == Put::times) y[o] *= sums[o];
            }
            if constexpr (how == Put::sum) {
                if (region.apart)
                    std::copy_n(sums, int(count), y);
                else
                    add(sums, region.bias(p), region.residual(row, p), count, y);
            }
        });
    }
}

// The panels of one matrix, for tiles first .. last of x
template <Put how>
void some_panels(const Work& work, const Region& region, const Weights& weights, Share tiles) {
    float sums[8 * panel_rows];
    for (int p = region.panels.begin; p < region.panels.end; p++)
        for (int t = tiles.begin; t < tiles.end; t++) {
            Tile tile = work.tile(t);
            work.path->panel(weights.shape, weights.data + p * panel_bytes(weights.shape),
                             work.quantised(tile), tile.width, sums);
            put<how>(region, p, tile, sums);
        }
}

// Of panels begin .. end of all products, seen as one list, those of each product
void each_region(const Work& work, Share mine, Share tiles, float* apart, auto&& region) {
    if (tiles.begin >= tiles.end) return;
    const Tile first = work.tile(tiles.begin), last = work.tile(tiles.end - 1);
    const Tile rows = {first.first, last.first + last.width - first.first};
    int before = 0;
    for (int i = 0; i < work.count; i++) {
        const int count = panels(work.products[i].weights.shape.n);
        const Share own = {std::max(mine.begin - before, 0), std::min(mine.end - before, count)};
        before += count;
        if (own.begin >= own.end) continue;
        const Region found = {work.products[i], own, rows, apart};
        region(found);
        if (apart) apart += size_t(rows.width) * found.stride();
    }
}

void panels_of_share(const Work& work, Share mine, Share tiles, float* apart) {
    each_region(work, mine, tiles, apart, [&](const Region& region) {
        const Product& product = region.product;
        if (product.gate) {
            some_panels<Put::silu>(work, region, *product.gate, tiles);
            some_panels<Put::times>(work, region, product.weights, tiles);
        } else
            some_panels<Put::sum>(work, region, product.weights, tiles);
    });
}

// How the panels are cut up. Of few rows a thread begins with half of its share, to read straight
// on; the rest is in small pieces, for memory does not serve all alike, and the slowest would hold
// up the others. Of many rows all pieces are alike, and a thread goes through its panels with as
// many rows as its second cache holds before it takes the next ones.
class Cut {
  public:
    Cut(const Work& work, int threads)
        : panels_(work.panels()), tiles_(work.tiles()), threads_(threads) {
        const size_t tile = size_t(work.blocks()) * work.tile_block(work.path->widest);
        at_once_ = std::max(1, int(rows_in_cache / tile));
        rows_at_once_ = std::min(at_once_ * work.path->widest, work.rows);
        pieces_ = alike() ? 16 : 9;
    }

    int steps() const { return (tiles_ + at_once_ - 1) / at_once_; }
    int parts() const { return threads_ == 1 ? steps() : steps() * threads_ * pieces_; }
    Share tiles(int part) const {
        const int begin = part / (parts() / steps()) * at_once_;
        return {begin, std::min(begin + at_once_, tiles_)};
    }
    Share panels(int part) const {
        if (threads_ == 1) return {0, panels_};
        const int piece = part % pieces_;
        const Share mine = share(panels_, part / pieces_ % threads_, threads_);
        const int half = (mine.end - mine.begin) / 2;
        if (alike()) return part_of(mine, piece, pieces_);
        if (piece == 0) return {mine.begin, mine.begin + half};
        return part_of({mine.begin + half, mine.end}, piece - 1, pieces_ - 1);
    }

    double largest() const { return 1. / (alike() ? parts() : 2 * threads_); }
    size_t most_results() const {  // floats that a part has at most
        const Share first = panels(0);
        return size_t(panel_rows) * (first.end - first.begin + 1) * rows_at_once_;
    }

  private:
    bool alike() const { return tiles_ > few_tiles; }

    static constexpr int few_tiles = 2;
    int panels_, tiles_, threads_, at_once_, rows_at_once_;
    int pieces_;  // of a thread's share
};

// All panels, in parts that can be taken back. A copy has its products, their gates and the
// quantised x behind it, and then room for what a part makes.
class Panels final : public WorkApart {
  public:
    Panels(const Work& work, int threads) : work_(work), cut_(work, threads) {}

    int parts() const { return cut_.parts(); }
    void do_part(int part) const override {
        panels_of_share(work_, cut_.panels(part), cut_.tiles(part), nullptr);
    }
    double largest() const override { return cut_.largest(); }

    size_t own_bytes() const override { return results_at() + cut_.most_results() * sizeof(float); }
    const WorkApart* copy(std::byte* own) const override {
        auto* products = reinterpret_cast<Product*>(own + products_at());
        auto* gates = reinterpret_cast<Weights*>(own + gates_at());
        auto* x = reinterpret_cast<uint8_t*>(own + x_at());
        for (int i = 0; i < work_.count; i++) {
            Product& product = *new (products + i) Product(work_.products[i]);
            if (product.gate) product.gate = new (gates + i) Weights(*product.gate);
        }
        std::memcpy(x, work_.scratch, x_bytes());
        Panels& copied = *new (own) Panels(*this);
        copied.work_.products = products;
        copied.work_.scratch = x;
        copied.results_ = reinterpret_cast<float*>(own + results_at());
        return &copied;
    }
    void make(int part) const override {
        panels_of_share(work_, cut_.panels(part), cut_.tiles(part), results_);
    }
    void put(int part) const override {
        each_region(work_, cut_.panels(part), cut_.tiles(part), results_,
                    [](const Region& region) { region.put(); });
    }

  private:
    static size_t lines(size_t bytes) { return (bytes + line - 1) / line * line; }
    size_t x_bytes() const { return scratch_bytes(work_.rows, work_.shape); }
    static size_t products_at() { return lines(sizeof(Panels)); }
    size_t gates_at() const { return products_at() + lines(work_.count * sizeof(Product)); }
    size_t x_at() const { return gates_at() + lines(work_.count * sizeof(Weights)); }
    size_t results_at() const { return x_at() + lines(x_bytes()); }

    Work work_;
    Cut cut_;
    float* results_ = nullptr;
};

void check(const Product* products, int count, int rows, const Path* path) {
    if (count < 1 || rows < 1 || !path)
        throw std::invalid_argument("multiply wants products, rows and a path that runs here");
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
              ThreadPool& pool, const Path* path) {
    check(products, count, rows, path);
    const Shape& shape = products->weights.shape;
    const Work work = {products, count, x, rows, shape, static_cast<uint8_t*>(scratch), path};
    const int64_t blocks = int64_t(work.tiles()) * work.blocks();
    // a few microseconds' work: less than it takes to tell others of it
    if (rows <= 4)
        quantise_blocks(work, {0, int(blocks)});
    else {
        const int parts = 8 * pool.threads();
        pool.parallel(parts,
                      [&](int part, int) { quantise_blocks(work, share(blocks, part, parts)); });
    }
    const Panels panels(work, pool.at_hand());
    pool.parallel_apart(panels.parts(), panels);
}

}  // namespace mpsplit
