// TopK: the largest of a slice of logits, so that only they travel: [rows, n] -> [2, k], values and
// ids of the last row.
//   0=k  1=id of the first column
#pragma once

#include <ncnn/layer.h>

#include <cstdint>

namespace mpsplit {

// The `count` largest of x[0 .. n), the largest first, of equal ones the lower index first.
void largest(const float* x, int n, int count, float* values, int64_t* at);

class TopK : public ncnn::Layer {
  public:
    TopK() { one_blob_only = true; }
    int load_param(const ncnn::ParamDict& params) override;
    int forward(const ncnn::Mat& logits, ncnn::Mat& top, const ncnn::Option& option) const override;

  private:
    int k = 0, first = 0;
};

}  // namespace mpsplit
