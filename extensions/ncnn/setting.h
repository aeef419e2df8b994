// What the layers of one rank share, and get as userdata: whom they talk to, where weights lie,
// where in the text they are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "attention.h"
#include "comm.h"

namespace mpsplit {

// Packed weights: one space of addresses in which several files lie, with nothing between them.
struct Packed {
    struct Piece {
        int64_t begin, bytes;
    };
    const uint8_t* data = nullptr;
    std::vector<Piece> pieces;

    // `bytes` at an offset in units of 64, nullptr where they are not all of one file
    const uint8_t* at(int64_t offset, int64_t bytes) const {
        int64_t begin = 0, end = 0;
        if (__builtin_mul_overflow(offset, 64, &begin) ||
            __builtin_add_overflow(begin, bytes, &end) || bytes < 0)
            return nullptr;
        for (const Piece& piece : pieces)
            if (begin >= piece.begin && end <= piece.begin + piece.bytes) return data + begin;
        return nullptr;
    }
};

struct Setting {
    std::map<int, std::shared_ptr<Comm>> groups;  // by the ids of the graph
    Packed packed;
    ThreadPool* pool = nullptr;
    int window = 0;  // tokens; 0: none
    int pages = 0;   // of the caches
    Rotation rotation = {};
    int angles = 0;         // of a position, in the rotation
    std::vector<Run> runs;  // the rows of this step
    // of the attentions, in the order of the graph; their layers own them
    std::vector<KeyValueCache*> caches;

    int64_t rows() const {
        int64_t rows = 0;
        for (const Run& run : runs) rows += run.count;
        return rows;
    }

    // Memory for a call, 64-byte aligned; calls follow each other, so all layers work in the same.
    // It only grows.
    void* scratch(size_t bytes) {
        if (bytes > scratch_.size() * sizeof(Line))
            scratch_.resize((bytes + sizeof(Line) - 1) / sizeof(Line));
        return scratch_.data();
    }

  private:
    struct alignas(64) Line {
        std::byte bytes[64];
    };
    std::vector<Line> scratch_;
};

}  // namespace mpsplit
