#include "engine_slice.h"

#include <cstdio>
#include <iterator>
#include <utility>

#include "memory_left.h"

namespace mpsplit {
namespace {

Segment segment_of(const KeptSegment& kept) {
    return {std::string(kept.identity, sizeof kept.identity), int(kept.first), int(kept.last)};
}

}  // namespace

EngineSlice::EngineSlice(const std::string& package, std::shared_ptr<Comm> world, int threads,
                         int local_size)
    : package_(package),
      rank_("rank-" + std::to_string(world->rank())),
      local_size_(local_size),
      engine_(package + "/" + rank_, std::move(world), threads) {}

std::span<const float> EngineSlice::step(std::span<const int64_t> tokens,
                                         std::span<const Question> questions) {
    parts_.clear();
    for (const Question& part : questions)
        parts_.push_back({int(part.slot), int(part.position), int(part.length)});
    const auto logits = engine_.step(tokens, parts_, false);
    return {logits.data, size_t(logits.rows) * size_t(logits.columns)};
}

void EngineSlice::place(int64_t slot, int64_t first, std::span<const int64_t> pages) {
    engine_.place(int(slot), int(first), pages);
}

// Before a cache is promised that would end this rank days later: as cache_room.py, but that the
// other ranks of this host are taken to be alike.
void EngineSlice::check_room(int64_t pages, int64_t stored) const {
    const int64_t left = available_bytes(), page = engine_.page_bytes(stored) * local_size_;
    if (page == 0 || pages <= left / page) return;
    const int64_t fitting = left / page * KeyValueCache::page_positions;
    constexpr double gib = 1 << 30;
    char text[400];
    std::snprintf(text, sizeof text,
                  "a cache of %lld tokens takes %.1f GiB on this machine (its ranks: %d), and "
                  "%.1f GiB are left; --cache %lld fits here",
                  (long long)pages * KeyValueCache::page_positions,
                  double(pages) * double(page) / gib, local_size_, double(left) / gib,
                  (long long)fitting);
    throw Error(text);
}

void EngineSlice::reserve(int64_t pages, int64_t stored) {
    check_room(pages, stored);
    engine_.reserve(pages, stored);
}

void EngineSlice::save(int64_t slot, const KeptSegment& kept, const std::string& folder) {
    const Segment segment = segment_of(kept);
    engine_.save(int(slot), segment, path(folder, segment));
}

std::array<int64_t, 2> EngineSlice::saved() {
    const Saved saved = engine_.saved();
    return {int64_t(saved.outcome), saved.detail};
}

int64_t EngineSlice::load(int64_t slot, const KeptSegment& kept, const std::string& folder) {
    const Segment segment = segment_of(kept);
    return int64_t(engine_.load(int(slot), segment, int(kept.until), path(folder, segment)));
}

void EngineSlice::sweep(const std::string& folder, const std::vector<std::string>& saves) {
    engine_.sweep(package_ + "/" + folder, saves);
}

std::array<int64_t, 3> EngineSlice::shared_work() const {
    const ThreadPool::Times& times = engine_.shared_work();
    return {times.shared_ns, times.waited_ns, times.alone_ns};
}

std::vector<int64_t> EngineSlice::spent() const {
    const Spent spent = engine_.spent();
    return {std::begin(spent.ns), std::end(spent.ns)};
}

// as mpsplit/runtime/engine/native_engine.py
std::string EngineSlice::path(const std::string& folder, const Segment& segment) const {
    const size_t name = segment.identity.size() - save_name_bytes;
    return package_ + "/" + folder + "/" + rank_ + "." + segment.identity.substr(name) + ".kv";
}

}  // namespace mpsplit
