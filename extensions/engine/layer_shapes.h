// What each layer of a rank's graph may say, and which shapes it takes and makes: in, the text of a
// .param; out, the shape of each blob, or a Failure that names the file, the layer and the number.
//
// ncnn's layers believe their inputs: a norm of 128 numbers over rows of 64 reads what lies behind
// them. Sizes that only a step knows have names, and sizes of one name are equal in every step; so
// what passes here fits whenever it runs. mpsplit/package/checked/layer_shapes.py has the same, and
// the manifest to hold it against; a rank without Python has this alone.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "param_text.h"
#include "rank_facts.h"
#include "setting.h"

namespace mpsplit {

// As ncnn has a shape: columns, rows, channels. Below 0 stands what only a step knows: its tokens,
// those of them whose logits are wanted, and how many of the largest of these there are.
constexpr int64_t some_rows = -1, some_answers = -2, largest_few = -3;
using BlobShapes = std::map<std::string, std::vector<int64_t>>;  // by name

// float_bytes: of the file of what ncnn's own layers have
BlobShapes check_layers(const std::vector<ParamLayer>& layers, const std::string& path,
                        const RankFacts& facts, const Setting& setting, int64_t float_bytes);

}  // namespace mpsplit
