// Blocks of up to 8 query rows that share a head of the cache: each key and value is read once for
// all of them. With grouped heads even a single token fills a block.
#include "attention.h"

#include <algorithm>
#include <limits>

#include "exponential.h"
#include "page.h"

namespace mpsplit {
namespace {

constexpr int block = 8, step = KeyValueCache::page_positions;

void rotate(const float* x, int dim, const float* cos, const float* sin, float scale, float* y) {
    int half = dim / 2;
    for (int i = 0; i < half; i++) {
        y[i] = scale * (x[i] * cos[i] - x[i + half] * sin[i]);
        y[i + half] = scale * (x[i] * sin[i] + x[i + half] * cos[i]);
    }
}

// The scores of a block of rows, and then its weights, lie in steps of 32 positions:
// [step][rows][32]. So rows are a constant apart, and what a step reads of the values stays in the
// first cache.
template <int rows>
float* score(float* s, int row, int position) {
    return s + (position / step * rows + row) * step + position % step;
}

// s = q [rows][dim] * keys of positions from .. to, both rounded to whole pages
template <class T, int rows>
void scores(const float* q, const Seen& seen, int from, int to, float* s) {
    // enough sums to keep the processor busy
    constexpr int panels = step / lanes, abreast = rows > 4 ? 1 : panels;
    const int dim = seen.cache.dim;
    for (int first = from; first < to; first += step) {
        const Page<T> page = seen.page<T>(first);
        for (int panel = 0; panel < panels; panel += abreast) {
            Lanes sums[abreast][rows] = {};
            for (int d = 0; d < dim; d++)
                for (int a = 0; a < abreast; a++) {
                    const T* at = page.keys + ((panel + a) * dim + d) * lanes;
                    __builtin_prefetch(at + abreast * dim * lanes);
                    const Lanes key = widened(at);
                    for (int r = 0; r < rows; r++) sums[a][r] += q[r * dim + d] * key;
                }
            for (int a = 0; a < abreast; a++)
                for (int r = 0; r < rows; r++) {
                    const int at = (panel + a) * lanes;
                    if constexpr (scaled<T>)
                        sums[a][r] *= *reinterpret_cast<const Lanes*>(page.key_scales + at);
                    *reinterpret_cast<Lanes*>(score<rows>(s, r, first + at)) = sums[a][r];
                }
        }
    }
}

// A row's scores of positions begin .. end become weights that sum to 1; those of from .. begin and
// end .. to become 0.
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
template <class T, int rows>
void mix(float* weights, const Seen& seen, int from, int end, float* out) {
    const int width = seen.cache.width;
    std::fill_n(out, rows * width, 0.f);
    for (int first = from; first < end; first += step) {
        float* weight = score<rows>(weights, 0, first);
        const int count = std::min(step, end - first);
        const Page<T> page = seen.page<T>(first);
        if constexpr (scaled<T>)
            for (int r = 0; r < rows; r++)
                for (int j = 0; j < count; j++) weight[r * step + j] *= page.value_scales[j];
        for (int c = 0; c < width; c += lanes) {
            const T* at = page.values + c;
            Lanes sums[rows];
            for (int r = 0; r < rows; r++)
                sums[r] = *reinterpret_cast<const Lanes*>(out + r * width + c);
            for (int j = 0; j < count; j++, at += width) {
                __builtin_prefetch(at + step / 2 * width);
                const Lanes value = widened(at);
                for (int r = 0; r < rows; r++) sums[r] += weight[r * step + j] * value;
            }
            for (int r = 0; r < rows; r++) *reinterpret_cast<Lanes*>(out + r * width + c) = sums[r];
        }
    }
}

// What one thread needs to itself.
struct Desk {
    float *q, *scores, *out;
    Desk(const KeyValueCache& cache, int positions, float* scratch, int thread)
        : q(scratch + thread * floats(cache, positions)),
          scores(q + block * rounded_up(cache.dim, lanes)),
          out(scores + block * positions) {}
    static size_t floats(const KeyValueCache& cache, int positions) {
        return block * size_t(rounded_up(cache.dim, lanes) + positions + cache.width);
    }
};

// The positions of the longest run, in whole pages.
int most_positions(std::span<const Run> runs) {
    int most = 0;
    for (const Run& run : runs) most = std::max(most, rounded_up(run.position + run.count, step));
    return most;
}

struct Work {
    const Attention& attention;
    const Run& run;
    Strided q;
    int group;  // heads of q that share one of the cache's
    float* y;   // q and y from the run's first row on
};

// Rows first .. first + count - 1 of what asks one head of the cache: row i is head i % group of
// token i / group.
template <class T, int count>
void answer(const Work& work, int head, int first, const Desk& desk) {
    const Attention& a = work.attention;
    const KeyValueCache& cache = a.cache;
    const Seen seen = {cache, work.run.pages, head};
    auto token = [&](int r) { return (first + r) / work.group; };
    auto at = [&](int r) { return (head * work.group + (first + r) % work.group) * cache.dim; };
    auto end = [&](int r) { return work.run.position + token(r) + 1; };
    auto begin = [&](int r) { return a.window ? std::max(0, end(r) - a.window) : 0; };
    const int from = begin(0) / step * step, to = rounded_up(end(count - 1), step);
    for (int r = 0; r < count; r++) {
        size_t angle = size_t(work.run.position + token(r)) * (cache.dim / 2);
        rotate(work.q[token(r)] + at(r), cache.dim, a.rotation.cos + angle, a.rotation.sin + angle,
               a.scale, desk.q + r * cache.dim);
    }
    scores<T, count>(desk.q, seen, from, to, desk.scores);
    for (int r = 0; r < count; r++) softmax<count>(desk.scores, r, from, begin(r), end(r), to);
    mix<T, count>(desk.scores, seen, from, end(count - 1), desk.out);
    for (int r = 0; r < count; r++)
        std::copy_n(desk.out + r * cache.width, cache.dim,
                    work.y + size_t(token(r)) * a.heads * cache.dim + at(r));
}

template <class T>
void answer(const Work& work, int head, int first, int left, const Desk& desk) {
    for (int count; left > 0; first += count, left -= count) {
        count = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
        auto* rows_of = count == 8   ? answer<T, 8>
                        : count == 4 ? answer<T, 4>
                        : count == 2 ? answer<T, 2>
                                     : answer<T, 1>;
        rows_of(work, head, first, desk);
    }
}

template <class T>
void remember(const Attention& a, int head, int position, const int32_t* pages, const float* k,
              const float* v, float* turned) {
    const KeyValueCache& cache = a.cache;
    const size_t angle = size_t(position) * (cache.dim / 2);
    rotate(k + head * cache.dim, cache.dim, a.rotation.cos + angle, a.rotation.sin + angle, 1,
           turned);
    const Page<T> page = Seen{cache, pages, head}.page<T>(position);
    const int at = position % step;
    float *key_scale = nullptr, *value_scale = nullptr;
    if constexpr (scaled<T>) key_scale = page.key_scales + at, value_scale = page.value_scales + at;
    store(turned, cache.dim, page.keys + size_t(at / lanes) * cache.dim * lanes + at % lanes, lanes,
          key_scale);
    store(v + head * cache.dim, cache.dim, page.values + size_t(at) * cache.width, 1, value_scale);
}

void shared(ThreadPool& pool, int parts, bool worthwhile, const auto& work) {
    if (worthwhile) return pool.parallel(parts, work);
    for (int part = 0; part < parts; part++) work(part, 0);
}

template <class T>
void attend(const Attention& attention, std::span<const Run> runs, Strided q, Strided k, Strided v,
            float* y, float* scratch, ThreadPool& pool) {
    const KeyValueCache& cache = attention.cache;
    const int group = attention.heads / cache.heads, positions = most_positions(runs);
    auto blocks = [&](const Run& run) { return (run.count * group + block - 1) / block; };
    int rows = 0, all = 0;
    for (const Run& run : runs) rows += run.count, all += blocks(run);
    auto store_row = [&](int i, int seat) {
        int row = i / cache.heads, at = row;
        const Run* run = runs.data();
        for (; at >= run->count; run++) at -= run->count;
        remember<T>(attention, i % cache.heads, run->position + at, run->pages, k[row], v[row],
                    Desk(cache, positions, scratch, seat).q);
    };
    auto answer_block = [&](int part, int seat) {  // of each run, the longest first
        const int i = cache.heads * all - 1 - part;
        int at = i / cache.heads, row = 0;
        const Run* run = runs.data();
        for (; at >= blocks(*run); run++) at -= blocks(*run), row += run->count;
        const Work work = {attention,
                           *run,
                           {q[row], q.stride},
                           group,
                           y + size_t(row) * attention.heads * cache.dim};
        answer<T>(work, i % cache.heads, at * block,
                  std::min(block, run->count * group - at * block),
                  Desk(cache, positions, scratch, seat));
    };
    // what takes a few microseconds is less than it takes to tell others of it
    shared(pool, rows * cache.heads, rows > 8, store_row);
    shared(pool, all * cache.heads, rows > 1 || positions > 64, answer_block);
}

}  // namespace

size_t attention_scratch_floats(const Attention& attention, std::span<const Run> runs,
                                int threads) {
    return threads * Desk::floats(attention.cache, most_positions(runs));
}

void attend(const Attention& attention, std::span<const Run> runs, Strided q, Strided k, Strided v,
            float* y, float* scratch, ThreadPool& pool) {
    with_type(attention.cache.stored(),
              [&]<class T>(T) { attend<T>(attention, runs, q, k, v, y, scratch, pool); });
}

}  // namespace mpsplit
