// One head's part of a page of the cache, and the numbers in it: how they are stored, and read as
// many at a time as a register holds.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "half.h"
#include "key_value_cache.h"

namespace mpsplit {

constexpr int lanes = 16;  // neighbours in memory
#if defined(__AVX512F__)
constexpr int wide = 16, registers = 32;
#elif defined(__AVX2__)
constexpr int wide = 8, registers = 16;
#elif defined(__aarch64__)
constexpr int wide = 4, registers = 32;
#else
constexpr int wide = 4, registers = 16;
#endif
using Lanes = float __attribute__((vector_size(wide * sizeof(float))));

static inline int rounded_up(int n, int to) { return (n + to - 1) / to * to; }

template <class T>
struct Neighbours {
    typedef T Vector __attribute__((vector_size(wide * sizeof(T))));
};

template <class T>
constexpr bool scaled = std::is_same_v<T, int8_t>;

static inline float widened_one(float x) { return x; }
static inline float widened_one(uint16_t x) { return from_bfloat(x); }
static inline float widened_one(int8_t x) { return x; }

// neighbouring numbers as float
template <class T>
static inline Lanes widened(const T* at) {
    const auto& stored = *reinterpret_cast<const typename Neighbours<T>::Vector*>(at);
    if constexpr (std::is_same_v<T, uint16_t>) {
        using Bits = uint32_t __attribute__((vector_size(wide * sizeof(uint32_t))));
        return reinterpret_cast<Lanes>(__builtin_convertvector(stored, Bits) << 16);
    } else if constexpr (scaled<T>) {  // by halves: at once, gcc does it number by number
        using Halves = int16_t __attribute__((vector_size(wide * sizeof(int16_t))));
        using Integers = int32_t __attribute__((vector_size(wide * sizeof(int32_t))));
        const auto halves = __builtin_convertvector(stored, Halves);
        return __builtin_convertvector(__builtin_convertvector(halves, Integers), Lanes);
    } else
        return stored;
}

// x [n] to every stride-th place; with a scale, in 8 bits of it
static inline void store(const float* x, int n, float* to, int stride, float*) {
    for (int i = 0; i < n; i++) to[i * stride] = x[i];
}

static inline void store(const float* x, int n, uint16_t* to, int stride, float*) {
    for (int i = 0; i < n; i++) to[i * stride] = to_bfloat(x[i]);
}

static inline void store(const float* x, int n, int8_t* to, int stride, float* scale) {
    float most = 0;
    for (int i = 0; i < n; i++) most = std::max(most, std::abs(x[i]));
    *scale = most / 127;
    const float inverse = most > 0 ? 127 / most : 0;
    for (int i = 0; i < n; i++) to[i * stride] = int8_t(std::lrint(x[i] * inverse));
}

// One head's part of a page.
template <class T>
struct Page {
    static constexpr int positions = KeyValueCache::page_positions;
    T *keys, *values;
    float *key_scales, *value_scales;  // of int8 alone

    Page(const KeyValueCache& cache, uint8_t* memory) {
        keys = reinterpret_cast<T*>(memory);
        values = keys + positions * cache.dim;
        key_scales = reinterpret_cast<float*>(values + positions * cache.width);
        value_scales = key_scales + positions;
    }
    static size_t bytes(const KeyValueCache& cache) {
        return positions *
               ((cache.dim + cache.width) * sizeof(T) + (scaled<T> ? 2 * sizeof(float) : 0));
    }
};

// What one head of a run sees.
struct Seen {
    const KeyValueCache& cache;
    const int32_t* pages;
    int head;
    template <class T>
    Page<T> page(int position) const {
        return {cache, cache.page(pages[position / KeyValueCache::page_positions], head)};
    }
};

// Calls f with a value of the type in which the cache stores.
template <class F>
static inline decltype(auto) with_type(Stored stored, F f) {
    switch (stored) {
        // NOLINTNEXTLINE(bugprone-branch-clone): each a type of its own
        case Stored::bf16: return f(uint16_t());
        case Stored::q8: return f(int8_t());
        default: return f(float());
    }
}

}  // namespace mpsplit
