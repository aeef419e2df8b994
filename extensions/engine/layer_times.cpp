#include "layer_times.h"

#include <map>

namespace mpsplit {

Kind kind_of(const std::string& layer_type) {
    static const std::map<std::string, Kind> named = {
        {"QLinear", Kind::linear},
        {"Gemm", Kind::linear},
        {"InnerProduct", Kind::linear},
        {"Attention", Kind::attention},
        {"RMSNorm", Kind::norm},
        {"LayerNorm", Kind::norm},
        {"AllReduce", Kind::all_reduce},
        {"AllGather", Kind::all_gather},
        {"Broadcast", Kind::broadcast},
        {"Send", Kind::send},
        {"Recv", Kind::recv},
    };
    const auto found = named.find(layer_type);
    return found == named.end() ? Kind::other : found->second;
}

}  // namespace mpsplit
