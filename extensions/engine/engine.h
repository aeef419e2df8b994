// One rank of a package: tokens and a position in, this rank's slice of the logits out.
//
// Weights and embedding are mapped, the cache of keys and values grows in place, and a step allocates nothing once it has
// seen its number of rows.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "comm.h"
#include "embedding.h"
#include "graph.h"
#include "mapped.h"
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
    // Appends the tokens at `position`, which is the cache's length, or 0 to start anew. All ranks call it alike. What it gives is
    // valid until the next step: the row after the last token, or a row a token; no columns where there is no head.
    Logits step(const int64_t* tokens, int count, int position, bool every_row);

    // The `count` largest logits of the last step's last row and the ids of their tokens; gives how many there are.
    int largest(int count, float* values, int64_t* ids);

    // To look inside: blobs that stay after a step, until the next one, and what the attentions remember, in the order of the graph.
    // What step leaves of the last hidden state is the last row, unless it is asked for every row.
    void keep(const std::string& blob);
    const ncnn::Mat& blob(const std::string& name) const;
    const std::vector<const KeyValueCache*>& caches() const { return setting_.caches; }

    int position() const { return position_; }
    uint64_t bytes_sent() const;
    double seconds_between_ranks() const;
    const RankFacts& facts() const { return facts_; }

  private:
    Graph::Row rows_of_file(const std::string& path);
    void hidden_in(const int64_t* tokens, int count);
    int index_of(const std::string& blob) const;  // throws a Failure

    RankFacts facts_;
    Setting setting_;
    std::vector<float> cos_, sin_;
    Mapped packed_, embedding_;
    std::unique_ptr<Graph> graph_;
    Graph::Row embed_;  // a row of this rank's part of the embedding, on the first stage
    Graph::Part body_ = {}, head_ = {};
    int hidden_in_ = -1, hidden_out_ = -1, logits_ = -1, top_ = -1;
    int position_ = 0;
};

}  // namespace mpsplit
