// Send: x to a peer; x goes on. 1=group 2=peer
#pragma once

#include "collective.h"

namespace mpsplit {

class Send : public CollectiveWithRank {
  public:
    int forward_inplace(ncnn::Mat& x, const ncnn::Option&) const override;
};

}  // namespace mpsplit
