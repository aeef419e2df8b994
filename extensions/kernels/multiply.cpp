// All products of an x: the threads quantise x together, then they share out the panels. Of a few
// rows the caller quantises x alone.
#include <algorithm>
#include <bit>
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

    int block() const { return input_block(shape); }
    int blocks() const { return input_blocks(shape); }
    size_t tile_block(int width) const {
        return tile_block_bytes(width, block(), is_float(shape.bits));
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
            const int block = work.block();
            const float* x = work.x + size_t(tile.first + r) * s.k + size_t(b) * block;
            if (is_float(s.bits))
                narrow(x, std::min(block, s.k - b * block), block, tile.width, r, out);
            else
                work.path->quantise(x, block, tile.width, r, out);
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
    }

    int steps() const { return (tiles_ + at_once_ - 1) / at_once_; }
    int parts() const { return threads_ == 1 ? steps() : steps() * threads_ * pieces; }
    Share tiles(int part) const {
        const int begin = part / (parts() / steps()) * at_once_;
        return {begin, std::min(begin + at_once_, tiles_)};
    }
    Share panels(int part) const {
        if (threads_ == 1) return {0, panels_};
        const int piece = part % pieces;
        const Share mine = share(panels_, part / pieces % threads_, threads_);
        const int half = (mine.end - mine.begin) / 2;
        if (tiles_ > few_tiles) return part_of(mine, piece, pieces);
        if (piece == 0) return {mine.begin, mine.begin + half};
        return part_of({mine.begin + half, mine.end}, piece - 1, pieces - 1);
    }

  private:
    static constexpr int pieces = 9;  // of a thread's share
    static constexpr int few_tiles = 2;
    int panels_, tiles_, threads_, at_once_;
};

void check(const Product* products, int count, int rows, const Path* path) {
    if (count < 1 || rows < 1 || !path)
        throw std::invalid_argument("multiply wants products, rows and a path that runs here");
    const Shape& first = products->weights.shape;
    auto fits = [&](const Shape& s) { return read_alike(s, first); };
    for (int i = 0; i < count; i++) {
        const Product& p = products[i];
        if (!fits(p.weights.shape) ||
            (p.gate && !(fits(p.gate->shape) && p.gate->shape.n == p.weights.shape.n)))
            throw std::invalid_argument(
                "products of one x have one k and one block of inputs, all in integers or all in "
                "bfloat16, and a gate the n of its pair");
        if (p.gate && (p.bias || p.residual))
            throw std::invalid_argument("a gated product adds neither bias nor residual");
    }
}

}  // namespace

bool read_alike(const Shape& a, const Shape& b) {
    return a.k == b.k && input_block(a) == input_block(b) && is_float(a.bits) == is_float(b.bits);
}

size_t scratch_bytes(int rows, const Shape& s) {
    return size_t(rows) * input_blocks(s) * tile_block_bytes(1, input_block(s), is_float(s.bits));
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
    const Cut cut(work, pool.at_hand());
    pool.parallel(cut.parts(),
                  [&](int part, int) { panels_of_share(work, cut.panels(part), cut.tiles(part)); });
}

}  // namespace mpsplit
