// Broadcast: the root's values on every rank. 1=group 2=root
#pragma once

#include "collective.h"

namespace mpsplit {

class Broadcast : public CollectiveWithRank {
  public:
    int forward_inplace(ncnn::Mat& x, const ncnn::Option&) const override;
};

}  // namespace mpsplit
