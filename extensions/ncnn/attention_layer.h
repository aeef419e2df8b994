// Attention: rotary embedding, the cache of one decoder layer, and the products over it, in one
// layer.
//   q, k, v -> y    each [rows, heads * dim], or [rows][heads, dim] after a norm of each head
//   0=heads 1=heads of k and v 2=dim 3=scale
#pragma once

#include <ncnn/layer.h>

#include <memory>

#include "setting.h"

namespace mpsplit {

class AttentionLayer : public ncnn::Layer {
  public:
    AttentionLayer() { one_blob_only = false; }
    int load_param(const ncnn::ParamDict& params) override;
    int forward(const std::vector<ncnn::Mat>& in, std::vector<ncnn::Mat>& out,
                const ncnn::Option& option) const override;

  private:
    int heads = 0;
    float scale = 0;
    std::unique_ptr<KeyValueCache> cache;
};

}  // namespace mpsplit
