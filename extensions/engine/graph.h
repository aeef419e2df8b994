// A rank's graph, run layer by layer in the order of its file: the order of the collectives is the
// one that convert has checked.
//
// ncnn parses the files and brings the layers. Its own Extractor runs them on demand and allocates
// as it goes; here every blob has its bytes in one arena before a step runs (blob_places.h), and a
// layer finds what it makes there already. The arena grows where a step asks for more.
#pragma once

#include <ncnn/net.h>

#include <cstdlib>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "blob_places.h"
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
    // Before the layers behind `body` rows of what the first of them reads are picked, where `head`
    // has any.
    void plan(Part body, Part head) { body_ = body, head_ = head, places_.reset(); }
    // A step of so many tokens, of which so many are answered; `given` is what the engine writes.
    void begin(int64_t rows, int64_t answers, int given);
    ncnn::Mat picked() { return places_->picked(arena_.get(), &strays_); }
    void run(Part part);

    using Row = std::function<void(int row, float* y)>;
    // Reads rows [k] of the matrix [n, k] of the linear that makes the blob, where they are mapped.
    // One of float32 is model.bin's last array.
    Row matrix_of(const std::string& blob, int n, int k) const;

    int blob(const std::string& name) const;                      // -1: the graph has none
    void keep(int blob) { kept_[blob] = true, places_.reset(); }  // it stays after a step
    ncnn::Mat take(int blob);  // what it holds; it is empty then, unless it is kept
    ncnn::Mat& operator[](int blob) { return blobs_[blob]; }
    int64_t arena_bytes() const { return arena_bytes_; }
    int64_t stray_bytes() const { return strays_.bytes(); }  // of blobs that are not in it
    int64_t workspace_bytes() const { return workspace_.bytes(); }
    const Spent& spent() const { return spent_; }  // in run so far

  private:
    void run(const ncnn::Layer& layer, std::vector<ncnn::Mat>& in, std::vector<ncnn::Mat>& out);

    Setting& setting_;
    Mapped weights_;
    std::span<const uint8_t> last_;  // array in weights_
    Pool workspace_, strays_;
    ncnn::Net net_;
    BlobShapes shapes_;
    Part body_ = {}, head_ = {};
    std::unique_ptr<BlobPlaces> places_;
    std::unique_ptr<char[], decltype(&std::free)> arena_ = {nullptr, &std::free};
    int64_t arena_bytes_ = 0;
    std::vector<ncnn::Mat> blobs_;
    std::vector<bool> kept_;
    std::vector<Kind> kinds_;  // of the layers
    Spent spent_;
    std::vector<std::vector<ncnn::Mat>> in_, out_;  // by layer: room for its blobs while it runs
};

}  // namespace mpsplit
