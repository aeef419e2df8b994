// Blocks of up to 8 query rows that share a head of the cache: each key and value is read once for
// all of them. With grouped heads even a single token fills a block. Stacks of up to 8 blocks go
// through the cache together, a stretch of positions that stays near the processor after another:
// so a long history is read from far away once a stack. Between stretches a row keeps the largest
// score so far, the sum of its weights relative to that, and the sum of its weighted values.
#include "attention.h"

#include <algorithm>
#include <limits>

#include "exponential.h"
#include "page.h"

namespace mpsplit {
namespace {

constexpr int block = 8, step = KeyValueCache::page_positions;
constexpr int stack = 8 * block;   // rows at most
constexpr int stretch = 8 * step;  // begins at multiples of this, whoever asks: sums are the same
constexpr int sums_at_once = registers / 2;
constexpr float nothing = -std::numeric_limits<float>::infinity();

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

// s = q [rows][dim] * keys of positions from .. to, both rounded to whole pages. Fewer rows than a
// block wait for memory, so they ask for it early.
template <class T, int rows>
void scores(const float* q, const Seen& seen, int from, int to, float* s) {
    // as many sums as keep the processor busy and stay in registers
    constexpr int near = std::min(rows, sums_at_once / 2), parts = step / wide,
                  abreast = std::min(parts, sums_at_once / near);
    const int dim = seen.cache.dim;
    for (int first = from; first < to; first += step) {
        const Page<T> page = seen.page<T>(first);
        for (int part = 0; part < parts; part += abreast)
            for (int row = 0; row < rows; row += near) {
                Lanes sums[abreast][near] = {};
                for (int d = 0; d < dim; d++)
                    for (int a = 0; a < abreast; a++) {
                        const int at = (part + a) * wide;
                        const T* key = page.keys + (at / lanes * dim + d) * lanes + at % lanes;
                        if (rows < block) __builtin_prefetch(key + step * dim / 2);
                        const Lanes numbers = widened(key);
                        for (int r = 0; r < near; r++)
                            sums[a][r] += q[(row + r) * dim + d] * numbers;
                    }
                for (int a = 0; a < abreast; a++)
                    for (int r = 0; r < near; r++) {
                        const int at = (part + a) * wide;
                        if constexpr (scaled<T>)
                            sums[a][r] *= *reinterpret_cast<const Lanes*>(page.key_scales + at);
                        *reinterpret_cast<Lanes*>(score<rows>(s, row + r, first - from + at)) =
                            sums[a][r];
                    }
            }
    }
}

// What a row has gone through so far.
struct Gone {
    float most, sum;
};

// A row's scores of positions begin .. end become weights relative to the largest so far; those of
// from .. begin and end .. to become 0. What was summed before is to be multiplied by the result.
template <int rows>
float weigh(float* s, int row, int from, int begin, int end, int to, Gone& gone) {
    auto outside = [&](float value) {
        for (int j = from; j < std::min(begin, to); j++) *score<rows>(s, row, j - from) = value;
        for (int j = std::max(end, from); j < to; j++) *score<rows>(s, row, j - from) = value;
    };
    if (begin >= to || end <= from) return outside(0), 1;
    outside(nothing);
    auto lines = [&](int j) { return reinterpret_cast<Lanes*>(score<rows>(s, row, j)); };
    float most = gone.most, sum = 0;
    Lanes greatest = Lanes{} + most, sums = {};
    for (int j = 0; j < to - from; j += wide) {
        const Lanes x = *lines(j);
        greatest = x > greatest ? x : greatest;
    }
    for (int i = 0; i < wide; i++) most = std::max(most, greatest[i]);
    for (int j = 0; j < to - from; j += lanes) {
        float* x = score<rows>(s, row, j);
#pragma omp simd
        for (int i = 0; i < lanes; i++)
            x[i] = exponential(x[i] - most);  // of nothing: 1e-38, which changes no sum
        for (int i = 0; i < lanes; i += wide) sums += *lines(j + i);
    }
    for (int i = 0; i < wide; i++) sum += sums[i];
    outside(0);
    const float share = gone.most == nothing ? 0 : exponential(gone.most - most);
    gone = {most, gone.sum * share + sum};
    return share;
}

// out [rows][width] += weights * values of positions from .. end
template <class T, int rows>
void mix(float* weights, const Seen& seen, int from, int end, float* out) {
    constexpr int near = std::min(rows, sums_at_once / 2),
                  abreast = std::min(lanes / wide, sums_at_once / near);
    const int width = seen.cache.width;
    for (int first = from; first < end; first += step) {
        float* weight = score<rows>(weights, 0, first - from);
        const int count = std::min(step, end - first);
        const Page<T> page = seen.page<T>(first);
        if constexpr (scaled<T>)
            for (int r = 0; r < rows; r++)
                for (int j = 0; j < count; j++) weight[r * step + j] *= page.value_scales[j];
        for (int c = 0; c < width; c += abreast * wide)
            for (int row = 0; row < rows; row += near) {
                auto at = [&](int r, int a) {
                    return reinterpret_cast<Lanes*>(out + (row + r) * width + c + a * wide);
                };
                Lanes sums[abreast][near];
                for (int a = 0; a < abreast; a++)
                    for (int r = 0; r < near; r++) sums[a][r] = *at(r, a);
                const T* value = page.values + c;
                for (int j = 0; j < count; j++, value += width)
                    for (int a = 0; a < abreast; a++) {
                        if (rows < block) __builtin_prefetch(value + step / 2 * width);
                        const Lanes numbers = widened(value + a * wide);
                        for (int r = 0; r < near; r++)
                            sums[a][r] += weight[(row + r) * step + j] * numbers;
                    }
                for (int a = 0; a < abreast; a++)
                    for (int r = 0; r < near; r++) *at(r, a) = sums[a][r];
            }
    }
}

// What one thread needs to itself: of each row of a stack its query, what it has gone through, and
// its sum; the scores of a block.
struct Desk {
    float *q, *out, *scores;
    Gone* gone;
    Desk(const KeyValueCache& cache, float* scratch, int thread)
        : q(scratch + thread * floats(cache)),
          out(q + stack * rounded_up(cache.dim, lanes)),
          scores(out + stack * cache.width),
          gone(reinterpret_cast<Gone*>(scores + block * stretch)) {}
    static size_t floats(const KeyValueCache& cache) {
        return stack * size_t(rounded_up(cache.dim, lanes) + cache.width + 2) + block * stretch;
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
struct Asking {
    const Work& work;
    int head, first;
    int token(int r) const { return (first + r) / work.group; }
    int at(int r) const {
        return (head * work.group + (first + r) % work.group) * work.attention.cache.dim;
    }
    int end(int r) const { return work.run.position + token(r) + 1; }
    int begin(int r) const {
        const int window = work.attention.window;
        return window ? std::max(0, end(r) - window) : 0;
    }
};

// Rows row .. row + count - 1 of a stack go through positions from .. to, whole pages of a stretch.
template <class T, int count>
void pass(const Asking& asking, int row, int from, int to, const Desk& desk) {
    const KeyValueCache& cache = asking.work.attention.cache;
    const Seen seen = {cache, asking.work.run.pages, asking.head};
    const int last = asking.end(row + count - 1);
    to = std::min(to, rounded_up(last, step));
    if (from >= to || asking.begin(row) >= to) return;
    float* out = desk.out + row * cache.width;
    scores<T, count>(desk.q + row * cache.dim, seen, from, to, desk.scores);
    for (int r = 0; r < count; r++) {
        const float share = weigh<count>(desk.scores, r, from, asking.begin(row + r),
                                         asking.end(row + r), to, desk.gone[row + r]);
        if (share != 1)
            for (int c = 0; c < cache.width; c++) out[r * cache.width + c] *= share;
    }
    mix<T, count>(desk.scores, seen, from, std::min(to, last), out);
}

// `rows` rows of a stack
template <class T>
void answer(const Asking& asking, int rows, const Desk& desk) {
    const Attention& a = asking.work.attention;
    const KeyValueCache& cache = a.cache;
    for (int r = 0; r < rows; r++) {
        const size_t angle = size_t(asking.end(r) - 1) * (cache.dim / 2);
        rotate(asking.work.q[asking.token(r)] + asking.at(r), cache.dim, a.rotation.cos + angle,
               a.rotation.sin + angle, a.scale, desk.q + r * cache.dim);
        desk.gone[r] = {nothing, 0};
    }
    std::fill_n(desk.out, rows * cache.width, 0.f);
    const int end = rounded_up(asking.end(rows - 1), step);
    for (int from = asking.begin(0) / step * step, to; from < end; from = to) {
        to = std::min(end, (from / stretch + 1) * stretch);
        for (int row = 0, count; row < rows; row += count) {
            const int left = rows - row;
            count = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
            auto* pass_of = count == 8   ? pass<T, 8>
                            : count == 4 ? pass<T, 4>
                            : count == 2 ? pass<T, 2>
                                         : pass<T, 1>;
            pass_of(asking, row, from, to, desk);
        }
    }
    for (int r = 0; r < rows; r++) {
        const float share = 1 / desk.gone[r].sum;
        float* y = asking.work.y + size_t(asking.token(r)) * a.heads * cache.dim + asking.at(r);
        for (int i = 0; i < cache.dim; i++) y[i] = desk.out[r * cache.width + i] * share;
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

// Rows of a stack: fewer where there would not be four stacks for each thread.
int rows_of_stack(std::span<const Run> runs, int group, int heads, int threads) {
    int blocks = 0;
    for (const Run& run : runs) blocks += heads * ((run.count * group + block - 1) / block);
    return block * std::clamp(blocks / (4 * threads), 1, stack / block);
}

template <class T>
void attend(const Attention& attention, std::span<const Run> runs, Strided q, Strided k, Strided v,
            float* y, float* scratch, ThreadPool& pool) {
    const KeyValueCache& cache = attention.cache;
    const int group = attention.heads / cache.heads, positions = most_positions(runs);
    const int most = rows_of_stack(runs, group, cache.heads, pool.threads());
    auto stacks = [&](const Run& run) { return (run.count * group + most - 1) / most; };
    int rows = 0, all = 0;
    for (const Run& run : runs) rows += run.count, all += stacks(run);
    auto store_row = [&](int i, int seat) {
        int row = i / cache.heads, at = row;
        const Run* run = runs.data();
        for (; at >= run->count; run++) at -= run->count;
        remember<T>(attention, i % cache.heads, run->position + at, run->pages, k[row], v[row],
                    Desk(cache, scratch, seat).q);
    };
    auto answer_stack = [&](int part, int seat) {  // of each run, the longest first
        const int i = cache.heads * all - 1 - part;
        int at = i / cache.heads, row = 0;
        const Run* run = runs.data();
        for (; at >= stacks(*run); run++) at -= stacks(*run), row += run->count;
        const Work work = {attention,
                           *run,
                           {q[row], q.stride},
                           group,
                           y + size_t(row) * attention.heads * cache.dim};
        answer<T>({work, i % cache.heads, at * most},
                  std::min(most, run->count * group - at * most), Desk(cache, scratch, seat));
    };
    // what takes a few microseconds is less than it takes to tell others of it
    shared(pool, rows * cache.heads, rows > 8, store_row);
    shared(pool, all * cache.heads, rows > 1 || positions > 64, answer_stack);
}

}  // namespace

size_t attention_scratch_floats(const Attention& attention, int threads) {
    return threads * Desk::floats(attention.cache);
}

void attend(const Attention& attention, std::span<const Run> runs, Strided q, Strided k, Strided v,
            float* y, float* scratch, ThreadPool& pool) {
    with_type(attention.cache.stored(),
              [&]<class T>(T) { attend<T>(attention, runs, q, k, v, y, scratch, pool); });
}

}  // namespace mpsplit
