// A rank that follows: takes orders from rank 0 until the end, as mpsplit/runtime/loop/follow.py
// does.
#pragma once

#include <array>
#include <span>
#include <string>
#include <vector>

#include "comm.h"
#include "orders.h"

namespace mpsplit {

// What orders need of an engine: one rank's slice of the model.
class Slice {
  public:
    virtual ~Slice() = default;
    // The parts' tokens, one part after another. Gives the logits after the last token of each
    // part, [parts][rows], valid until the next step; none without a head.
    virtual std::span<const float> step(std::span<const int64_t> tokens,
                                        std::span<const Question> questions) = 0;
    virtual void place(int64_t slot, int64_t first, std::span<const int64_t> pages) = 0;
    virtual void forget(std::span<const int64_t> pages) = 0;
    virtual void reserve(int64_t pages, int64_t stored) = 0;
    // A segment of a slot, to a file of this rank in a folder of the package, beside the steps, and
    // how that went; from that file; and which saves' files stay (cache_file.h).
    virtual void save(int64_t slot, const KeptSegment& segment, const std::string& folder) = 0;
    virtual std::array<int64_t, 2> saved() = 0;
    virtual int64_t load(int64_t slot, const KeptSegment& segment, const std::string& folder) = 0;
    virtual void sweep(const std::string& folder, const std::vector<std::string>& saves) = 0;
    // which package it is of (package_here.h)
    virtual int64_t package() const { return 0; }
    virtual int64_t first_row() const = 0;  // rows of the head
    virtual int64_t rows() const = 0;
    virtual uint64_t bytes_sent() const = 0;
    virtual double seconds_between_ranks() const = 0;
    virtual std::vector<int64_t> spent() const = 0;  // ns so far, by kind of layer
    // ns so far, as engine_protocol.py's SHARED_WORK names it
    virtual std::array<int64_t, 3> shared_work() const { return {}; }
};

// All ranks, once they have loaded: waits for the slowest, and refuses ranks that speak other
// orders or have another package.
void greet(const Slice& slice, Comm& world);

void follow(Slice& slice, Comm& world);

}  // namespace mpsplit
