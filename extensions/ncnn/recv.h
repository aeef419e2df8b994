// Recv: what a peer sent, in place of x. 1=group 2=peer
#pragma once

#include "collective.h"

namespace mpsplit {

class Recv : public CollectiveWithRank {
  public:
    int forward_inplace(ncnn::Mat& x, const ncnn::Option&) const override;
};

}  // namespace mpsplit
