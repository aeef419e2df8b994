// QLinear: up to three linear layers of one x, their weights in blocks of 4, 6 or 8 bits or in
// bfloat16, read where their files are mapped.
//
//   x -> y0 [, y1, y2]        y_i = x W_i^T + bias_i
//   x, residual -> y0         8=1   y0 = residual + x W_0^T + bias_0
//   x -> y0                   7=1   y0 = x W_0^T * silu(x W_1^T)
//
// Product i has its parameters at 10 i + 0 .. 6: n, k, bits, block, offset and bytes and bias among
// the packed weights (Packed in setting.h; offsets in 64 bytes, bias -1 for none). The bytes are
// those that the shape takes, which need not fit a parameter; -1 stands for them then.
#pragma once

#include <ncnn/layer.h>

#include "qlinear.h"
#include "setting.h"

namespace mpsplit {

class QuantisedLinear : public ncnn::Layer {
  public:
    QuantisedLinear() { one_blob_only = false; }
    int load_param(const ncnn::ParamDict& params) override;
    const Weights& matrix() const { return weights[0]; }
    int forward(const std::vector<ncnn::Mat>& in, std::vector<ncnn::Mat>& out,
                const ncnn::Option& option) const override;

  private:
    static constexpr int most = 3;
    Setting* setting = nullptr;
    int count = 0;
    bool gated = false, residual = false;
    Weights weights[most] = {};
    const float* biases[most] = {};
};

}  // namespace mpsplit
