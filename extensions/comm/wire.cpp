#include "wire.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "sum.h"

namespace mpsplit {

constexpr size_t block = 32;

struct Block {
    float scale;
    int8_t values[block];
};
static_assert(sizeof(Block) == 36);

size_t wire_bytes(Wire wire, size_t count) {
    switch (wire) {
    case Wire::same: return count * sizeof(float);
    case Wire::bf16: return count * sizeof(uint16_t);
    case Wire::q8: return (count + block - 1) / block * sizeof(Block);
    }
    throw std::invalid_argument("no such wire format");
}

static Block quantised(const float* x, size_t count) {
    Block result{};
    float largest = 0;
    bool finite = true;
    for (size_t i = 0; i < count; ++i) {
        largest = std::max(largest, std::fabs(x[i]));
        finite &= bool(std::isfinite(x[i]));
    }
    result.scale = finite ? largest / 127 : std::numeric_limits<float>::quiet_NaN();
    if (!finite || result.scale == 0) return result; // so small a block is 0
    for (size_t i = 0; i < count; ++i)
        result.values[i] = int8_t(std::clamp(std::nearbyint(x[i] / result.scale), -127.0f, 127.0f));
    return result;
}

void encode(Wire wire, const float* x, size_t count, std::byte* out) {
    if (wire == Wire::bf16) {
        auto* to = reinterpret_cast<uint16_t*>(out);
        for (size_t i = 0; i < count; ++i) to[i] = to_bf16(x[i]);
        return;
    }
    auto* to = reinterpret_cast<Block*>(out);
    for (size_t i = 0; i < count; i += block) *to++ = quantised(x + i, std::min(block, count - i));
}

void decode(Wire wire, const std::byte* in, size_t count, float* x) {
    if (wire == Wire::bf16) {
        auto* from = reinterpret_cast<const uint16_t*>(in);
        for (size_t i = 0; i < count; ++i) x[i] = from_bf16(from[i]);
        return;
    }
    auto* from = reinterpret_cast<const Block*>(in);
    for (size_t i = 0; i < count; i += block, ++from)
        for (size_t j = 0; j < std::min(block, count - i); ++j) x[i + j] = from->scale * from->values[j];
}

} // namespace mpsplit
