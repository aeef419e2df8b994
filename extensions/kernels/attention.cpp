// Blocks of up to 8 query rows that share a head of the cache: each key and value is read once for all of them. With grouped
// heads even a single token fills a block.
#include "attention.h"

#include <omp.h>
#include <sys/mman.h>

#include <algorithm>
#include <limits>
#include <new>

#include "exponential.h"

namespace mpsplit {
namespace {

constexpr int lanes = 16, block = 8, step = 32;
using Lanes = float __attribute__((vector_size(lanes * sizeof(float))));

int rounded_up(int n, int to) { return (n + to - 1) / to * to; }

void rotate(const float* x, int dim, const float* cos, const float* sin, float scale, float* y, int step) {
    int half = dim / 2;
    for (int i = 0; i < half; i++) {
        y[i * step] = scale * (x[i] * cos[i] - x[i + half] * sin[i]);
        y[(i + half) * step] = scale * (x[i] * sin[i] + x[i + half] * cos[i]);
    }
}

// The scores of a block of rows, and then its weights, lie in steps of 32 positions: [step][rows][32]. So rows are a constant apart,
// and what a step reads of the values stays in the first cache.
template <int rows>
float* score(float* s, int row, int position) {
    return s + (position / step * rows + row) * step + position % step;
}

// s = q [rows][dim] * keys of positions from .. to, both rounded to whole steps
template <int rows>
void scores(const float* q, int dim, const float* keys, int from, int to, float* s) {
    constexpr int abreast = rows > 4 ? 1 : 2;  // panels: enough sums to keep the processor busy
    for (int first = from; first < to; first += abreast * lanes) {
        Lanes sums[abreast][rows] = {};
        const float* panels = keys + size_t(first) * dim;
        for (int d = 0; d < dim; d++)
            for (int a = 0; a < abreast; a++) {
                const float* key = panels + (a * dim + d) * lanes;
                __builtin_prefetch(key + abreast * dim * lanes);
                for (int r = 0; r < rows; r++) sums[a][r] += q[r * dim + d] * *reinterpret_cast<const Lanes*>(key);
            }
        for (int a = 0; a < abreast; a++)
            for (int r = 0; r < rows; r++) *reinterpret_cast<Lanes*>(score<rows>(s, r, first + a * lanes)) = sums[a][r];
    }
}

// A row's scores of positions begin .. end become weights that sum to 1; those of from .. begin and end .. to become 0.
template <int rows>
void softmax(float* s, int row, int from, int begin, int end, int to) {
    constexpr float nothing = -std::numeric_limits<float>::infinity();
    auto outside = [&](float value) {
        for (int j = from; j < begin; j++) *score<rows>(s, row, j) = value;
        for (int j = end; j < to; j++) *score<rows>(s, row, j) = value;
    };
    outside(nothing);
    float most = nothing, sum = 0;
    for (int j = from; j < to; j += step) {
        const float* x = score<rows>(s, row, j);
#pragma omp simd reduction(max : most)
        for (int i = 0; i < step; i++) most = std::max(most, x[i]);
    }
    for (int j = from; j < to; j += step) {
        float* x = score<rows>(s, row, j);
#pragma omp simd reduction(+ : sum)
        for (int i = 0; i < step; i++) {
            x[i] = exponential(x[i] - most);  // of nothing: 1e-38, which changes no sum
            sum += x[i];
        }
    }
    outside(0);
    const float share = 1 / sum;
    for (int j = from; j < to; j += step) {
        float* x = score<rows>(s, row, j);
        for (int i = 0; i < step; i++) x[i] *= share;
    }
}

// out [rows][width] = weights * values of positions from .. end
template <int rows>
void mix(float* weights, int from, int end, const float* values, int width, float* out) {
    std::fill_n(out, rows * width, 0.f);
    for (int first = from; first < end; first += step) {
        const float* weight = score<rows>(weights, 0, first);
        const int count = std::min(step, end - first);
        for (int c = 0; c < width; c += lanes) {
            const float* value = values + size_t(first) * width + c;
            Lanes sums[rows];
            for (int r = 0; r < rows; r++) sums[r] = *reinterpret_cast<const Lanes*>(out + r * width + c);
            for (int j = 0; j < count; j++, value += width) {
                __builtin_prefetch(value + step * width);
                for (int r = 0; r < rows; r++) sums[r] += weight[r * step + j] * *reinterpret_cast<const Lanes*>(value);
            }
            for (int r = 0; r < rows; r++) *reinterpret_cast<Lanes*>(out + r * width + c) = sums[r];
        }
    }
}

// What one thread needs to itself.
struct Desk {
    float *q, *scores, *out;
    Desk(const KeyValueCache& cache, float* scratch, int thread)
        : q(scratch + thread * floats(cache)), scores(q + block * rounded_up(cache.dim, lanes)), out(scores + block * cache.context) {}
    static size_t floats(const KeyValueCache& cache) { return block * size_t(rounded_up(cache.dim, lanes) + cache.context + cache.width); }
};

struct Work {
    const Attention& attention;
    Strided q;
    int position, group;  // heads of q that share one of the cache's
    float* y;
};

// Strided first .. first + count - 1 of what asks one head of the cache: row i is head i % group of token i / group.
template <int count>
void answer(const Work& work, int head, int first, const Desk& desk) {
    const Attention& a = work.attention;
    const KeyValueCache& cache = a.cache;
    auto token = [&](int r) { return (first + r) / work.group; };
    auto at = [&](int r) { return (head * work.group + (first + r) % work.group) * cache.dim; };
    auto end = [&](int r) { return work.position + token(r) + 1; };
    auto begin = [&](int r) { return a.window ? std::max(0, end(r) - a.window) : 0; };
    const int from = begin(0) / step * step, to = rounded_up(end(count - 1), step);
    for (int r = 0; r < count; r++) {
        size_t angle = size_t(work.position + token(r)) * (cache.dim / 2);
        rotate(work.q[token(r)] + at(r), cache.dim, a.rotation.cos + angle, a.rotation.sin + angle, a.scale,
               desk.q + r * cache.dim, 1);
    }
    scores<count>(desk.q, cache.dim, cache.keys(head), from, to, desk.scores);
    for (int r = 0; r < count; r++) softmax<count>(desk.scores, r, from, begin(r), end(r), to);
    mix<count>(desk.scores, from, end(count - 1), cache.values(head), cache.width, desk.out);
    for (int r = 0; r < count; r++)
        std::copy_n(desk.out + r * cache.width, cache.dim, work.y + size_t(token(r)) * a.heads * cache.dim + at(r));
}

void remember(const Attention& a, int head, int position, const float* k, const float* v) {
    const KeyValueCache& cache = a.cache;
    size_t angle = size_t(position) * (cache.dim / 2);
    float* panel = cache.keys(head) + size_t(position / lanes) * cache.dim * lanes + position % lanes;
    rotate(k + head * cache.dim, cache.dim, a.rotation.cos + angle, a.rotation.sin + angle, 1, panel, lanes);
    std::copy_n(v + head * cache.dim, cache.dim, cache.values(head) + size_t(position) * cache.width);
}

}  // namespace

KeyValueCache::KeyValueCache(int heads, int dim, int context)
    : heads(heads), dim(dim), context(rounded_up(context, step)), width(rounded_up(dim, lanes)) {
    size_t keys = size_t(heads) * this->context * dim, values = size_t(heads) * this->context * width;
    bytes_ = (keys + values) * sizeof(float);
    void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    values_ = static_cast<float*>(memory);
    keys_ = values_ + values;
}

KeyValueCache::~KeyValueCache() { munmap(values_, bytes_); }

void KeyValueCache::read_keys(int head, int positions, float* to) const {
    for (int p = 0; p < positions; p++) {
        const float* panel = keys(head) + size_t(p / lanes) * dim * lanes + p % lanes;
        for (int d = 0; d < dim; d++) *to++ = panel[d * lanes];
    }
}

void KeyValueCache::read_values(int head, int positions, float* to) const {
    for (int p = 0; p < positions; p++) to = std::copy_n(values(head) + size_t(p) * width, dim, to);
}

size_t attention_scratch_floats(const Attention& attention, int threads) { return threads * Desk::floats(attention.cache); }

void attend(const Attention& attention, Strided q, Strided k, Strided v, int rows, int position, float* y, float* scratch, int threads) {
    const KeyValueCache& cache = attention.cache;
    const Work work = {attention, q, position, attention.heads / cache.heads, y};
    const int asking = rows * work.group, blocks = (asking + block - 1) / block;
    if (position + rows < 64) threads = std::min(threads, rows);  // a few microseconds: less than it takes to wake a thread
#pragma omp parallel num_threads(threads)
    {
#pragma omp for
        for (int i = 0; i < rows * cache.heads; i++) {
            int row = i / cache.heads;
            remember(attention, i % cache.heads, position + row, k[row], v[row]);
        }
        const Desk desk(cache, scratch, omp_get_thread_num());
#pragma omp for schedule(dynamic)
        for (int i = cache.heads * blocks - 1; i >= 0; i--) {  // the longest first
            int head = i % cache.heads, first = i / cache.heads * block, left = std::min(block, asking - first);
            for (int count; left > 0; first += count, left -= count) {
                count = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
                auto* rows_of = count == 8 ? answer<8> : count == 4 ? answer<4> : count == 2 ? answer<2> : answer<1>;
                rows_of(work, head, first, desk);
            }
        }
    }
}

}  // namespace mpsplit
