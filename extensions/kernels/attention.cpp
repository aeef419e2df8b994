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

constexpr int lanes = 16, block = 8;
using Lanes = float __attribute__((vector_size(lanes * sizeof(float))));

int rounded_up(int n, int to) { return (n + to - 1) / to * to; }

void rotate(const float* x, int dim, const float* cos, const float* sin, float scale, float* y, int step) {
    int half = dim / 2;
    for (int i = 0; i < half; i++) {
        y[i * step] = scale * (x[i] * cos[i] - x[i + half] * sin[i]);
        y[(i + half) * step] = scale * (x[i] * sin[i] + x[i + half] * cos[i]);
    }
}

// s [rows][stride] = q [rows][dim] * keys of `panels` panels; reads up to 8 panels past the last
template <int rows>
void scores(const float* q, int dim, const float* keys, int panels, float* s, int stride) {
    constexpr int abreast = block / rows;
    for (int p = 0; p < panels; p += abreast) {
        Lanes sums[abreast][rows] = {};
        const float* panel = keys + size_t(p) * dim * lanes;
        for (int d = 0; d < dim; d++)
            for (int a = 0; a < abreast; a++) {
                Lanes key = *reinterpret_cast<const Lanes*>(panel + (size_t(a) * dim + d) * lanes);
                for (int r = 0; r < rows; r++) sums[a][r] += q[r * dim + d] * key;
            }
        for (int a = 0; a < abreast; a++)
            for (int r = 0; r < rows; r++) *reinterpret_cast<Lanes*>(s + r * stride + (p + a) * lanes) = sums[a][r];
    }
}

// scores [begin, end) become weights that sum to 1, the others of [from, to) become 0
void softmax(float* s, int from, int begin, int end, int to) {
    float most = -std::numeric_limits<float>::infinity(), sum = 0;
#pragma omp simd reduction(max : most)
    for (int i = begin; i < end; i++) most = std::max(most, s[i]);
#pragma omp simd reduction(+ : sum)
    for (int i = begin; i < end; i++) {
        s[i] = exponential(s[i] - most);
        sum += s[i];
    }
    float share = 1 / sum;
    for (int i = begin; i < end; i++) s[i] *= share;
    std::fill(s + from, s + begin, 0.f);
    std::fill(s + end, s + to, 0.f);
}

// out [rows][width] = weights [rows][from .. to) * values
template <int rows>
void mix(const float* weights, int stride, int from, int to, const float* values, int width, float* out) {
    for (int c = 0; c < width; c += lanes) {
        Lanes sums[rows] = {};
        for (int j = from; j < to; j++) {
            Lanes value = *reinterpret_cast<const Lanes*>(values + size_t(j) * width + c);
            for (int r = 0; r < rows; r++) sums[r] += weights[r * stride + j] * value;
        }
        for (int r = 0; r < rows; r++) *reinterpret_cast<Lanes*>(out + r * width + c) = sums[r];
    }
}

// What one thread needs to itself.
struct Desk {
    float *q, *scores, *out;
    int stride;
    Desk(const KeyValueCache& cache, float* scratch, int thread)
        : q(scratch + thread * floats(cache)),
          scores(q + block * rounded_up(cache.dim, lanes)),
          out(scores + block * (cache.context + block * lanes)),
          stride(cache.context + block * lanes) {}
    static size_t floats(const KeyValueCache& cache) {
        return block * (size_t(rounded_up(cache.dim, lanes)) + cache.context + block * lanes + cache.width);
    }
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
    const int from = begin(0) / lanes * lanes, to = end(count - 1);
    for (int r = 0; r < count; r++) {
        size_t angle = size_t(work.position + token(r)) * (cache.dim / 2);
        rotate(work.q[token(r)] + at(r), cache.dim, a.rotation.cos + angle, a.rotation.sin + angle, a.scale,
               desk.q + r * cache.dim, 1);
    }
    scores<count>(desk.q, cache.dim, cache.keys(head) + size_t(from) * cache.dim, (to - from + lanes - 1) / lanes,
                  desk.scores + from, desk.stride);
    for (int r = 0; r < count; r++) softmax(desk.scores + r * desk.stride, from, begin(r), end(r), to);
    mix<count>(desk.scores, desk.stride, from, to, cache.values(head), cache.width, desk.out);
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
    : heads(heads), dim(dim), context(rounded_up(context, lanes)), width(rounded_up(dim, lanes)) {
    size_t keys = size_t(heads) * this->context * dim, values = size_t(heads) * this->context * width;
    bytes_ = (keys + size_t(block) * lanes * dim + values) * sizeof(float);  // scores() reads past the last keys
    void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    values_ = static_cast<float*>(memory);
    keys_ = values_ + values;
}

KeyValueCache::~KeyValueCache() { munmap(values_, bytes_); }

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
