// AllGather: the ranks' columns side by side, [rows, n] -> [rows, size * n]. 1=group 2=size
#pragma once

#include "collective.h"

namespace mpsplit {

class AllGather : public Collective {
  public:
    AllGather() { support_inplace = false; }
    int forward(const ncnn::Mat& x, ncnn::Mat& y, const ncnn::Option& option) const override;
};

}  // namespace mpsplit
