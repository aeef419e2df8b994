// The text of a .param, looked over before ncnn reads it: ncnn believes every count in it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace mpsplit {

// One line. Parameters are text still: which of them are numbers, layer_shapes.h knows.
struct ParamLayer {
    int line;
    std::string type, name;
    std::vector<std::string> bottoms, tops;
    std::map<int, std::string> params;
};

// A whole number, all of the word; false for none, and for one that does not fit.
bool whole_number(const std::string& word, int64_t& value);

// Whether a text has nothing but lines of plain words.
bool is_plain(const std::string& text);

// Throws a Failure that names the path and the line: counts that are not those of the text, blobs
// without one producer or with two readers, parameters that stand twice.
std::vector<ParamLayer> read_param(const std::string& path);
std::vector<ParamLayer> parse_param(const std::string& text, const std::string& path);

}  // namespace mpsplit
