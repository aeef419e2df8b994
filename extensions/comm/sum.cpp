#include "sum.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace mpsplit {

#if defined(__aarch64__) || defined(__ARM_FP16_FORMAT_IEEE)
using Half = __fp16;  // g++ 12 has no _Float16 for C++ on ARM
#else
using Half = _Float16;
#endif

struct Brain {
    uint16_t bits;
};

size_t size_of(Type type) {
    switch (type) {
        case Type::f32:
        case Type::i32: return 4;
        case Type::f16:
        case Type::bf16: return 2;
        case Type::i8: return 1;
        case Type::i64: return 8;
    }
    throw std::invalid_argument("no such type");
}

static uint16_t to_bf16(float x) {  // to nearest even
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    const uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1);
    const bool nan = (bits & 0x7fffffff) > 0x7f800000;  // rounding could carry its mantissa away
    return uint16_t((nan ? bits | 0x400000 : rounded) >> 16);
}

static float from_bf16(uint16_t x) { return std::bit_cast<float>(uint32_t(x) << 16); }

static float sum(float a, float b) { return a + b; }
static Half sum(Half a, Half b) { return Half(float(a) + float(b)); }
static Brain sum(Brain a, Brain b) { return {to_bf16(from_bf16(a.bits) + from_bf16(b.bits))}; }
static int8_t sum(int8_t a, int8_t b) { return int8_t(std::clamp(int(a) + int(b), -128, 127)); }
static int32_t sum(int32_t a, int32_t b) { return int32_t(uint32_t(a) + uint32_t(b)); }
static int64_t sum(int64_t a, int64_t b) { return int64_t(uint64_t(a) + uint64_t(b)); }

template <typename T>
static void add_all(void* out, const void* low, const void* high, size_t count) {
    auto* to = static_cast<T*>(out);
    auto *a = static_cast<const T*>(low), *b = static_cast<const T*>(high);
    for (size_t i = 0; i < count; ++i) to[i] = sum(a[i], b[i]);
}

void add(Type type, void* out, const void* low, const void* high, size_t count) {
    switch (type) {
        case Type::f32: return add_all<float>(out, low, high, count);
        case Type::f16: return add_all<Half>(out, low, high, count);
        case Type::bf16: return add_all<Brain>(out, low, high, count);
        case Type::i8: return add_all<int8_t>(out, low, high, count);
        case Type::i32: return add_all<int32_t>(out, low, high, count);
        case Type::i64: return add_all<int64_t>(out, low, high, count);
    }
}

}  // namespace mpsplit
