// One rank of a package: tokens of several requests in, this rank's slice of their logits out.
//
// Weights and embedding are mapped, the cache of keys and values grows in place, and a step
// allocates nothing once it has seen its number of rows. A request has a slot, and in it a table of
// the pages in which its positions lie. At first there are pages for one context, in no slot.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cache_writer.h"
#include "comm.h"
#include "embedding.h"
#include "graph.h"
#include "layer_times.h"
#include "mapped_files.h"
#include "rank_facts.h"
#include "setting.h"

namespace mpsplit {

class Engine {
  public:
    // folder: PACKAGE/rank-R; world: as many ranks as the package has, this one at its place
    Engine(const std::string& folder, std::shared_ptr<Comm> world, int threads);

    struct Logits {
        const float* data;
        int rows, columns;
    };
    struct Part {  // `count` tokens that follow the `position` tokens of a slot
        int slot, position, count;
    };

    // Room for so many pages, none of them in a slot; `stored` is a Stored. What was in the caches
    // is gone.
    void reserve(int64_t pages, int64_t stored);
    int64_t page_bytes(int64_t stored) const;  // of a page in all caches
    // From the `first`-th on, the pages of a slot are these.
    void place(int slot, int first, std::span<const int64_t> pages);
    // What these pages hold is of no use any more; their memory goes back to the system.
    void forget(std::span<const int64_t> pages);

    // The parts' tokens, one part after another. All ranks call it alike. What it gives is valid
    // until the next step: the row after the last token of each part, or a row a token; no columns
    // where there is no head.
    Logits step(std::span<const int64_t> tokens, std::span<const Part> parts, bool every_row);

    // A segment of a slot to a file, beside the steps: nobody changes its pages until `saved` says
    // that they were read. And from there, up to `until`.
    void save(int slot, const Segment& segment, const std::string& path);
    Saved saved() { return writer_.saved(); }
    Outcome load(int slot, const Segment& segment, int until, const std::string& path);
    // Of this rank's files in a folder, only those of these saves stay (also beside the steps).
    void sweep(const std::string& folder, const std::vector<std::string>& saves);

    // To look inside: blobs that stay after a step, until the next one, and what the attentions
    // remember, in the order of the graph. What step leaves of the last hidden state is the last
    // row, unless it is asked for every row.
    void keep(const std::string& blob);
    const ncnn::Mat& blob(const std::string& name) const;
    const std::vector<KeyValueCache*>& caches() const { return setting_.caches; }
    std::span<const int32_t> pages(int slot) const;
    // that hold so many positions, or a Failure
    std::span<const int32_t> pages(int slot, int positions) const;
    uint64_t bytes_sent() const;
    double seconds_between_ranks() const;
    Spent spent() const;  // so far
    const Graph& graph() const { return *graph_; }
    const ThreadPool::Times& shared_work() const { return pool_.times(); }
    const RankFacts& facts() const { return facts_; }

  private:
    int32_t page(int64_t number) const;  // or a Failure
    Segment here(Segment segment) const;
    Graph::Row rows_of_file(const std::string& path);
    void set_runs(std::span<const Part> parts, size_t tokens);
    void hidden_in(std::span<const int64_t> tokens);
    void pick_rows(std::span<const Part> parts, bool every_row);
    int index_of(const std::string& blob) const;  // throws a Failure

    RankFacts facts_;
    ThreadPool pool_;
    Setting setting_;
    std::vector<float> cos_, sin_;
    Mapped packed_, embedding_;
    std::unique_ptr<Graph> graph_;
    Graph::Row embed_;  // a row of this rank's part of the embedding, on the first stage
    Graph::Part body_ = {}, head_ = {};
    int hidden_in_ = -1, hidden_out_ = -1, logits_ = -1;
    std::map<int, std::vector<int32_t>> slots_;  // the pages of each
    int64_t embedding_ns_ = 0;                   // so far
    CacheWriter writer_;                         // the last: it reads the caches to its end
};

}  // namespace mpsplit
