// What the collectives have in common: parameter 1 is the id of a group, the others follow in the
// order of the schema.
#pragma once

#include <ncnn/layer.h>

#include "setting.h"

namespace mpsplit {

class Collective : public ncnn::Layer {
  public:
    Collective() {
        one_blob_only = true;
        support_inplace = true;
    }

    int load_param(const ncnn::ParamDict& params) override {
        auto& groups = static_cast<Setting*>(userdata)->groups;
        auto found = groups.find(params.get(1, -1));
        if (found == groups.end() || !found->second) return -1;
        comm = found->second.get();
        return 0;
    }

  protected:
    Comm* comm = nullptr;
};

// A collective that has a second integer: a rank of the group.
class CollectiveWithRank : public Collective {
  public:
    int load_param(const ncnn::ParamDict& params) override {
        rank = params.get(2, -1);
        return Collective::load_param(params) || rank < 0 || rank >= comm->size() ? -1 : 0;
    }

  protected:
    int rank = -1;
};

// Of rows: a blob of more dimensions has gaps.
inline size_t bytes_of(const ncnn::Mat& x) { return size_t(x.w) * x.h * x.elemsize; }

}  // namespace mpsplit
