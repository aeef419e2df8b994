#include "blob_pool.h"

#include <bit>
#include <cstdlib>
#include <new>
#include <utility>

namespace mpsplit {

struct alignas(64) Pool::Piece {
    Piece* next;
    int size;
};

Pool::~Pool() {
    for (Piece* piece : free_)
        while (piece) std::free(std::exchange(piece, piece->next));
}

void* Pool::fastMalloc(size_t size) {
    // ncnn's kernels may read a little past the end of a blob
    const int power = int(std::bit_width(size + NCNN_MALLOC_OVERREAD - 1));  // at least 64 bytes
    const std::lock_guard held(busy_);
    Piece*& first = free_[power];
    if (!first) {
        void* memory = std::aligned_alloc(alignof(Piece), sizeof(Piece) + (size_t(1) << power));
        if (!memory) return nullptr;
        bytes_ += int64_t(sizeof(Piece) + (size_t(1) << power));
        first = new (memory) Piece{nullptr, power};
    }
    return std::exchange(first, first->next) + 1;
}

void Pool::fastFree(void* memory) {
    if (!memory) return;
    Piece* piece = static_cast<Piece*>(memory) - 1;
    const std::lock_guard held(busy_);
    piece->next = std::exchange(free_[piece->size], piece);
}

}  // namespace mpsplit
