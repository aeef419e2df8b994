// The slice of the model that orders are about: an engine, and the package beside which it keeps.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine.h"
#include "follow.h"
#include "package_here.h"

namespace mpsplit {

class EngineSlice final : public Slice {
  public:
    // local_size: ranks on this host
    EngineSlice(const std::string& package, std::shared_ptr<Comm> world, int threads,
                int local_size = 1);

    std::span<const float> step(std::span<const int64_t> tokens,
                                std::span<const Question> questions) override;
    void place(int64_t slot, int64_t first, std::span<const int64_t> pages) override;
    void forget(std::span<const int64_t> pages) override { engine_.forget(pages); }
    void reserve(int64_t pages, int64_t stored) override;
    void save(int64_t slot, const KeptSegment& kept, const std::string& folder) override;
    std::array<int64_t, 2> saved() override;
    int64_t load(int64_t slot, const KeptSegment& kept, const std::string& folder) override;
    void sweep(const std::string& folder, const std::vector<std::string>& saves) override;
    int64_t package() const override { return package_number(package_); }
    int64_t first_row() const override { return engine_.facts().head_start; }
    int64_t rows() const override { return engine_.facts().head_rows; }
    uint64_t bytes_sent() const override { return engine_.bytes_sent(); }
    double seconds_between_ranks() const override { return engine_.seconds_between_ranks(); }
    std::array<int64_t, 3> shared_work() const override;
    std::vector<int64_t> spent() const override;

  private:
    void check_room(int64_t pages, int64_t stored) const;
    std::string path(const std::string& folder, const Segment& segment) const;

    std::string package_, rank_;
    int local_size_;
    Engine engine_;
    std::vector<Engine::Part> parts_;
};

}  // namespace mpsplit
