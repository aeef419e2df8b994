#include "engine_slice.h"

#include <iterator>
#include <utility>

namespace mpsplit {
namespace {

Segment segment_of(const KeptSegment& kept) {
    return {std::string(kept.identity, sizeof kept.identity), int(kept.first), int(kept.last)};
}

}  // namespace

EngineSlice::EngineSlice(const std::string& package, std::shared_ptr<Comm> world, int threads)
    : package_(package),
      rank_("rank-" + std::to_string(world->rank())),
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

void EngineSlice::reserve(int64_t pages, int64_t stored) { engine_.reserve(pages, stored); }

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
