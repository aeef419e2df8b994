#include "graph.h"

#include <ncnn/datareader.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <new>
#include <utility>

#include "failure.h"
#include "layer_shapes.h"
#include "layers.h"
#include "omp_on_pool.h"
#include "param_text.h"
#include "quantised_linear.h"

namespace mpsplit {
namespace {

// Weights where they are mapped; never a byte past the end.
class MappedReader : public ncnn::DataReader {
  public:
    explicit MappedReader(const Mapped& file) : file_(file) {}

    size_t read(void* to, size_t size) const override {
        size = std::min(size, file_.bytes - at_);
        if (size) std::memcpy(to, file_.data + at_, size);
        at_ += size;
        return size;
    }

    size_t reference(size_t size, const void** data) const override {
        if (size > file_.bytes - at_) return 0;
        *data = file_.data + at_;
        last_ = {file_.data + at_, size};
        at_ += size;
        return size;
    }

    bool at_end() const { return at_ == file_.bytes; }
    std::span<const uint8_t> last() const { return last_; }

  private:
    const Mapped& file_;
    mutable size_t at_ = 0;
    mutable std::span<const uint8_t> last_;
};

constexpr int parts_a_thread = 4;

// float32 throughout, and every blob laid out plainly
ncnn::Option plain(int parts, ncnn::Allocator& blobs, ncnn::Allocator& workspace) {
    ncnn::Option option;
    option.num_threads = parts;
    option.blob_allocator = &blobs, option.workspace_allocator = &workspace;
    option.use_local_pool_allocator = false;
    option.use_packing_layout = false;
    option.use_fp16_packed = option.use_fp16_storage = option.use_fp16_arithmetic = false;
    option.use_bf16_packed = option.use_bf16_storage = false;
    option.use_int8_inference = option.use_int8_packed = option.use_int8_storage =
        option.use_int8_arithmetic = false;
    return option;
}

constexpr int no_memory = -100;  // as ncnn's layers say it

[[noreturn]] void fail(const ncnn::Layer& layer, int why) {
    throw Failure("layer " + layer.name + " (" + layer.type + ") failed with " +
                  std::to_string(why) +
                  (why == no_memory ? ": no memory is left for what it makes"
                                    : ": what it reads does not fit it"));
}

}  // namespace

Graph::Graph(const std::string& param, const std::string& weights, const RankFacts& facts,
             Setting& setting)
    : setting_(setting), weights_(weights, Reading::unsaid) {
    const int threads = setting.pool->threads();
    net_.opt = plain(threads == 1 ? 1 : parts_a_thread * threads, strays_, workspace_);
    add_layers(net_, setting);
    const OmpOnPool shared(*setting.pool);
    const MappedReader reader(weights_);
    shapes_ = check_layers(read_param(param), param, facts, setting, int64_t(weights_.bytes));
    if (net_.load_param(param.c_str()) != 0)
        throw Failure(param +
                      " does not fit its weights, or this version; convert the package again");
    if (net_.load_model(reader) != 0 || !reader.at_end())
        throw Failure(weights + " does not fit " + param + "; convert the package again");
    last_ = reader.last();
    blobs_.resize(net_.blobs().size());
    kept_.resize(blobs_.size());
    for (const ncnn::Layer* layer : net_.layers()) {
        in_.emplace_back(layer->bottoms.size());
        out_.emplace_back(layer->tops.size());
        kinds_.push_back(kind_of(layer->type));
    }
}

int Graph::blob(const std::string& name) const {
    const auto& blobs = net_.blobs();
    auto found = std::find_if(blobs.begin(), blobs.end(),
                              [&](const ncnn::Blob& b) { return b.name == name; });
    return found == blobs.end() ? -1 : int(found - blobs.begin());
}

Graph::Part Graph::until(const std::string& name) const {
    const int end = int(net_.layers().size()), index = blob(name),
              reader = index < 0 ? -1 : net_.blobs()[index].consumer;
    return {0, reader < 0 ? end : reader};
}

Graph::Row Graph::matrix_of(const std::string& name, int n, int k) const {
    const int index = blob(name);
    const ncnn::Layer* layer = index < 0 ? nullptr : net_.layers()[net_.blobs()[index].producer];
    // a product with a number
    if (layer && layer->type == "BinaryOp" && layer->bottoms.size() == 1)
        layer = net_.layers()[net_.blobs()[layer->bottoms[0]].producer];
    if (layer && layer->type == "QLinear") {
        const Weights& matrix = static_cast<const QuantisedLinear*>(layer)->matrix();
        if (matrix.shape.n == n && matrix.shape.k == k)
            return [matrix](int row, float* y) { unpack(matrix, row, y); };
    }
    const size_t width = size_t(k) * sizeof(float);
    if (layer && layer->type == "Gemm" && last_.size() == n * width)
        return [first = last_.data(), width](int row, float* y) {
            std::memcpy(y, first + row * width, width);
        };
    throw Failure("the graph has no linear of " + std::to_string(n) + " x " + std::to_string(k) +
                  " that makes " + name + "; convert the package again");
}

void Graph::run(Part part) {
    using Clock = std::chrono::steady_clock;
    const OmpOnPool shared(*setting_.pool);
    auto began = Clock::now();
    for (int i = part.begin; i < part.end; i++) {
        const ncnn::Layer& layer = *net_.layers()[i];
        const bool given = layer.bottoms.empty() && layer.type == "Input";
        if (given) continue;
        run(layer, in_[i], out_[i]);
        const auto done = Clock::now();
        spent_[kinds_[i]] += std::chrono::nanoseconds(done - began).count();
        began = done;
    }
}

void Graph::begin(int64_t rows, int64_t answers, int given) {
    if (!places_) {
        const bool has_head = head_.end > head_.begin;
        places_ = std::make_unique<BlobPlaces>(net_, shapes_, has_head ? body_.end : -1,
                                               has_head ? head_.end : body_.end, kept_);
    }
    places_->begin(rows, answers);
    for (ncnn::Mat& blob : blobs_) blob.release();
    if (const int64_t bytes = places_->bytes(); bytes > arena_bytes_) {
        arena_.reset();
        arena_bytes_ = 0;
        // ncnn's kernels may read a little past the end of a blob
        void* memory = std::aligned_alloc(arena_alignment, size_t(bytes) + NCNN_MALLOC_OVERREAD);
        if (!memory) throw std::bad_alloc();
        arena_.reset(static_cast<char*>(memory));
        arena_bytes_ = bytes;
    }
    blobs_[given] = places_->made(given, arena_.get(), &strays_);
}

void Graph::run(const ncnn::Layer& layer, std::vector<ncnn::Mat>& in, std::vector<ncnn::Mat>& out) {
    for (size_t i = 0; i < in.size(); i++) in[i] = take(layer.bottoms[i]);
    // a layer that finds a blob of the right shape makes no other
    for (size_t i = 0; i < out.size(); i++)
        out[i] = places_->made(layer.tops[i], arena_.get(), &strays_);
    int failed = 0;
    if (!layer.support_inplace && !in.empty() && out[0].data && out[0].data == in[0].data) {
        // the same bytes again: there is nothing to do
    } else if (layer.support_inplace) {
        for (size_t i = 0; i < in.size(); i++)
            if (out[i].data != in[i].data)
                std::memcpy(out[i].data, in[i].data, in[i].total() * in[i].elemsize);
        failed = layer.one_blob_only ? layer.forward_inplace(out[0], net_.opt)
                                     : layer.forward_inplace(out, net_.opt);
    } else
        failed = layer.one_blob_only ? layer.forward(in[0], out[0], net_.opt)
                                     : layer.forward(in, out, net_.opt);
    if (failed) fail(layer, failed);
    for (size_t i = 0; i < layer.tops.size(); i++) blobs_[layer.tops[i]] = out[i];
    for (auto* used : {&in, &out})
        for (ncnn::Mat& mat : *used) mat.release();
}

ncnn::Mat Graph::take(int blob) {
    return kept_[blob] ? blobs_[blob] : std::exchange(blobs_[blob], ncnn::Mat());
}

}  // namespace mpsplit
