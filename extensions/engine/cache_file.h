// Pages of the cache in a file, so that what was computed once is there again after a restart.
//
//   char [16] "mpsplit kv 1\n", padded with 0
//   char [64] whose keys and values these are: the package's weights, as manifest.py names them
//   int64 positions, Stored, attentions, bytes of a page of one attention
//   for each attention, its pages, in order
//   uint64 a checksum of all before
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "key_value_cache.h"

namespace mpsplit {

// What became of it, as mpsplit/runtime/kept/kept_texts.py tells it.
enum class Outcome : int64_t { done, missing, other, damaged, unwritable };

// Writes a new file and puts it into the place of an old one; of no positions it removes the old
// one.
Outcome save(const std::string& path, const std::string& whose,
             std::span<KeyValueCache* const> caches, std::span<const int32_t> pages, int positions);

// Fills the pages; what is in them after anything but `done` means nothing.
Outcome load(const std::string& path, const std::string& whose,
             std::span<KeyValueCache* const> caches, std::span<const int32_t> pages, int positions);

}  // namespace mpsplit
