// Where a rank's time goes, by the kind of layer. mpsplit/runtime/engine/layer_kinds.py lists the
// kinds in the same order.
#pragma once

#include <cstdint>
#include <string>

namespace mpsplit {

enum class Kind {
    embedding,
    linear,
    attention,
    norm,
    other,
    all_reduce,
    all_gather,
    broadcast,
    send,
    recv
};
constexpr int kinds = int(Kind::recv) + 1;

Kind kind_of(const std::string& layer_type);

struct Spent {
    int64_t ns[kinds] = {};
    int64_t& operator[](Kind kind) { return ns[int(kind)]; }
};

}  // namespace mpsplit
