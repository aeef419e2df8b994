// A rank's graph, run layer by layer in the order of its file: the order of the collectives is the
// one that convert has checked.
//
// ncnn parses the files and brings the layers. Its own Extractor runs them on demand and allocates
// as it goes; here every blob has its place, and what a blob held returns to the pool once its one
// consumer has run.
#pragma once

#include <ncnn/net.h>

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "blob_pool.h"
#include "layer_times.h"
#include "mapped_files.h"
#include "rank_facts.h"
#include "setting.h"

namespace mpsplit {

class Graph {
  public:
    // The setting outlives the graph. A Failure where a layer does not fit the facts.
    Graph(const std::string& param, const std::string& weights, const RankFacts& facts,
          Setting& setting);

    struct Part {
        int begin, end;
    };
    Part until(const std::string& blob) const;  // the layers before the one that reads the blob
    void run(Part part);

    using Row = std::function<void(int row, float* y)>;
    // Reads rows [k] of the matrix [n, k] of the linear that makes the blob, where they are mapped.
    // One of float32 is model.bin's last array.
    Row matrix_of(const std::string& blob, int n, int k) const;

    int blob(const std::string& name) const;     // -1: the graph has none
    void keep(int blob) { kept_[blob] = true; }  // it stays after its consumer has run
    ncnn::Mat take(int blob);  // what it holds; it is empty then, unless it is kept
    ncnn::Mat& operator[](int blob) { return blobs_[blob]; }
    ncnn::Allocator* pool() { return &pool_; }
    const Spent& spent() const { return spent_; }  // in run so far

  private:
    void run(const ncnn::Layer& layer, std::vector<ncnn::Mat>& in, std::vector<ncnn::Mat>& out);

    Setting& setting_;
    Mapped weights_;
    std::span<const uint8_t> last_;  // array in weights_
    Pool pool_;
    ncnn::Net net_;
    std::vector<ncnn::Mat> blobs_;
    std::vector<bool> kept_;
    std::vector<Kind> kinds_;  // of the layers
    Spent spent_;
    std::vector<std::vector<ncnn::Mat>> in_, out_;  // by layer: room for its blobs while it runs
};

}  // namespace mpsplit
