// A follower over an engine that is a formula. Python's lead talks to it in
// tests/extensions/test_rank.py, or a file of orders does.
//   follow_test FIRST_ROW ROWS [ORDERS]
#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>

#include "follow.h"
#include "join.h"
#include "script_link.h"

using namespace mpsplit;

namespace {

class Table final : public Slice {
  public:
    Table(int64_t first, int64_t rows) : first_(first), rows_(size_t(rows)) {}

    // The logit of id is the fraction of (sum of the slot's tokens + 1) * (id + 1) * 0.618, times
    // 8, so that no two are equal.
    std::span<const float> step(std::span<const int64_t> tokens,
                                std::span<const Question> questions) override {
        logits_.clear();
        for (const Question& part : questions) {
            const auto token = [&](int64_t at) -> int64_t& {
                return pages_[tables_[part.slot].at(size_t(at / 32))][size_t(at % 32)];
            };
            for (int64_t i = 0; i < part.length; ++i) token(part.position + i) = tokens[size_t(i)];
            tokens = tokens.subspan(size_t(part.length));
            int64_t sum = 0;
            for (int64_t i = 0; i < part.position + part.length; ++i) sum += token(i);
            for (size_t i = 0; i < rows_; ++i) {
                const double x = double(sum + 1) * double(first_ + int64_t(i) + 1) * 0.618;
                logits_.push_back(float((x - double(int64_t(x))) * 8));
            }
        }
        return logits_;
    }

    void place(int64_t slot, int64_t first, std::span<const int64_t> pages) override {
        tables_[slot].resize(size_t(first));
        tables_[slot].insert(tables_[slot].end(), pages.begin(), pages.end());
    }
    void forget(std::span<const int64_t> pages) override {
        for (const int64_t page : pages) pages_.erase(page);
    }
    void reserve(int64_t, int64_t) override {}
    void save(int64_t, const KeptSegment&, const std::string&) override {}
    std::array<int64_t, 2> saved() override { return {}; }
    int64_t load(int64_t, const KeptSegment&, const std::string&) override { return 0; }
    void sweep(const std::string&, const std::vector<std::string>&) override {}
    int64_t first_row() const override { return first_; }
    int64_t rows() const override { return int64_t(rows_); }
    uint64_t bytes_sent() const override { return 0; }
    double seconds_between_ranks() const override { return 0; }
    std::vector<int64_t> spent() const override {
        return std::vector<int64_t>(10);
    }  // of as many kinds as there are

  private:
    int64_t first_;
    size_t rows_;
    std::map<int64_t, std::vector<int64_t>> tables_;
    std::map<int64_t, std::array<int64_t, 32>> pages_;  // tokens
    std::vector<float> logits_;
};

void follow_script(Table& table, const char* path) {
    std::ifstream file(path, std::ios::binary);
    const std::string orders{std::istreambuf_iterator<char>(file), {}};
    const auto* data = reinterpret_cast<const uint8_t*>(orders.data());
    Comm world(std::make_shared<ScriptLink>(data, orders.size()), {0, 1});
    try {
        follow(table, world);
    } catch (const EndOfScript&) {
        throw Error("rank 0 says no more");
    }
}

}  // namespace

int main(int count, char** words) {
    try {
        Table table(std::stoll(words[1]), std::stoll(words[2]));
        if (count > 3) return follow_script(table, words[3]), 0;
        const auto world = join(place()).world;
        greet(table, *world);
        follow(table, *world);
    } catch (const std::exception& wrong) {
        std::fprintf(stderr, "%s\n", wrong.what());
        return 2;
    }
}
