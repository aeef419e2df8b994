// The text of a .param, looked over before ncnn reads it: ncnn believes every count in it.
#pragma once

#include <string>

namespace mpsplit {

// Throws a Failure that names the path and the line: counts beyond what the text holds, blobs
// without one producer or with two readers.
void check_param_text(const std::string& path);

}  // namespace mpsplit
