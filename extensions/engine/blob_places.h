// Which bytes each blob of a step has: some of its own, or those of what its layer reads.
//
// In: the layers, the shapes of their blobs. Out, before a step runs: where each blob lies in the
// arena. What works in place takes over the bytes of what it reads, if nobody reads that later; a
// Split or a Reshape has the same bytes again. Constants lie elsewhere.
#pragma once

#include <ncnn/net.h>

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "arena.h"
#include "layer_shapes.h"

namespace mpsplit {

class BlobPlaces {
  public:
    // Of the layers before `end`. Before the layer `picked` the rows that are wanted are picked of
    // what it reads; -1 for nowhere. `kept`: blobs that stay after the step.
    BlobPlaces(const ncnn::Net& net, const BlobShapes& shapes, int picked, int end,
               const std::vector<bool>& kept);

    // For a step of so many tokens, of which so many are answered; all below is of that step.
    void begin(int64_t rows, int64_t answers);
    int64_t bytes() const { return plan_->bytes; }
    // The blob as its layer makes it, in memory from `base` on; empty where it has no place.
    ncnn::Mat made(int blob, char* base, ncnn::Allocator* allocator) const;
    ncnn::Mat picked(char* base, ncnn::Allocator* allocator) const;

  private:
    struct Room {
        std::vector<int64_t> shape;  // as layer_shapes.h has it
        int first, last;
        int unread;  // blobs that have these bytes
    };
    int room(const std::vector<int64_t>& shape, int step);
    int64_t size(int64_t said) const;
    ncnn::Mat mat(int room, const std::vector<int64_t>& shape, char* base,
                  ncnn::Allocator* allocator) const;

    static constexpr size_t most_plans = 256;
    std::vector<Room> rooms_;
    std::vector<int> room_of_;                 // by blob; -1 for none
    std::vector<std::vector<int64_t>> shape_;  // by blob
    int picked_ = -1;                          // a room
    int64_t rows_ = 0, answers_ = 0;
    std::map<std::pair<int64_t, int64_t>, ArenaPlan> plans_;
    const ArenaPlan* plan_ = nullptr;
};

}  // namespace mpsplit
