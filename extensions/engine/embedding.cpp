#include "embedding.h"

#include <cstring>

#include "failure.h"
#include "half.h"

namespace mpsplit {
namespace {

// numbers of a file may lie at any address
template <class T>
T at(const uint8_t* row, int i) {
    T value;
    std::memcpy(&value, row + size_t(i) * sizeof value, sizeof value);
    return value;
}

}  // namespace

EmbeddingFormat::EmbeddingFormat(const std::string& dtype, int hidden) : hidden_(hidden) {
    const struct {
        const char* name;
        Kind kind;
        int block;
    } known[] = {{"F32", Kind::f32, 0},   {"F16", Kind::f16, 0},   {"BF16", Kind::bf16, 0},
                 {"Q8-32", Kind::q8, 32}, {"Q8-64", Kind::q8, 64}, {"Q8-128", Kind::q8, 128}};
    for (const auto& [name, kind, block] : known) {
        if (dtype != name || (block && hidden % block)) continue;
        kind_ = kind, block_ = block;
        row_bytes_ = block ? hidden + size_t(2) * (hidden / block)
                           : size_t(hidden) * (kind == Kind::f32 ? 4 : 2);
        return;
    }
    throw Failure("embeddings of " + std::to_string(hidden) +
                  " numbers of this type are not known; convert the package again");
}

void EmbeddingFormat::read(const uint8_t* row, float* y) const {
    switch (kind_) {
        case Kind::f32: std::memcpy(y, row, row_bytes_); break;
        case Kind::f16:
            for (int i = 0; i < hidden_; i++) y[i] = from_half(at<uint16_t>(row, i));
            break;
        case Kind::bf16:
            for (int i = 0; i < hidden_; i++) y[i] = from_bfloat(at<uint16_t>(row, i));
            break;
        case Kind::q8:
            for (int b = 0; b < hidden_ / block_; b++) {
                const float scale = from_half(at<uint16_t>(row + hidden_, b));
                for (int i = b * block_; i < (b + 1) * block_; i++)
                    y[i] = scale * float(at<int8_t>(row, i));
            }
            break;
    }
}

}  // namespace mpsplit
