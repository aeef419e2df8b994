// A segment of what the cache knows of a text, in a file that is there again after a restart.
//
//   char [16] "mpsplit kv 3\n", padded with 0
//   char [160] the identity: whose keys and values these are, the tokens up to the last, the save
//              (mpsplit/runtime/kept/kept_texts.py)
//   int64 rank, first and last position, Stored, attentions, bytes of a page of one attention
//   for each attention, its pages, in order
//   uint64 a checksum of all before
//
// Invariant: a file gets a name that no file had. It counts once rank 0 has written down that it
// does, and not before.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "key_value_cache.h"

namespace mpsplit {

// What became of it, as mpsplit/runtime/kept/outcomes.py tells it.
enum class Outcome : int64_t {
    done,
    missing,
    other,
    damaged,
    unwritable,
    syncing,  // the pages are read, and may change; the disk has not told yet that it has them
    writing
};

struct Saved {
    Outcome outcome = Outcome::done;
    int64_t detail = 0;  // bytes of what is done, errno of what is unwritable
};

// Positions `first` to before `last`, as a rank has them; `first` begins a page.
struct Segment {
    std::string identity;
    int first = 0, last = 0, rank = 0;
};

// Writes a new file, and its folder where there is none. It returns when the disk has them, or
// leaves no file. `when_read` is called when the pages are no longer needed.
Saved save(const std::string& path, const Segment& segment, std::span<KeyValueCache* const> caches,
           std::span<const int32_t> pages, const std::function<void()>& when_read);

// Fills the pages up to position `until`; what is in them after anything but `done` means nothing.
// `pages` are those of the text in both.
Outcome load(const std::string& path, const Segment& segment, int until,
             std::span<KeyValueCache* const> caches, std::span<const int32_t> pages);

// Of the files in a folder whose names begin so, removes those in whose names none of `saves`
// occurs. Then the folder, if nothing is left in it.
void sweep(const std::string& folder, const std::string& begin,
           const std::vector<std::string>& saves);

}  // namespace mpsplit
