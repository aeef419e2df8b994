// AllReduce: the sum over the ranks of a group, in place. 1=group
#pragma once

#include "collective.h"

namespace mpsplit {

class AllReduce : public Collective {
  public:
    int forward_inplace(ncnn::Mat& x, const ncnn::Option&) const override;
};

}  // namespace mpsplit
