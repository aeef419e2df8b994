// What each layer of a rank's graph may say, and which shapes it takes and makes: in, the text of a
// .param; out, nothing, or a Failure that names the file, the layer and the number.
//
// ncnn's layers believe their inputs: a norm of 128 numbers over rows of 64 reads what lies behind
// them. Sizes that only a step knows have names, and sizes of one name are equal in every step; so
// what passes here fits whenever it runs. mpsplit/package/checked/layer_shapes.py has the same, and
// the manifest to hold it against; a rank without Python has this alone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "param_text.h"
#include "rank_facts.h"
#include "setting.h"

namespace mpsplit {

// float_bytes: of the file of what ncnn's own layers have
void check_layers(const std::vector<ParamLayer>& layers, const std::string& path,
                  const RankFacts& facts, const Setting& setting, int64_t float_bytes);

}  // namespace mpsplit
