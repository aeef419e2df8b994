#include "param_text.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <map>
#include <sstream>
#include <vector>

#include "failure.h"

namespace mpsplit {
namespace {

constexpr size_t longest_word = 255;  // ncnn's buffers; longer ones would be read as two
constexpr int first_array = -23300;   // ids from here down have an array, whose length comes first

// The number that the word begins with; -1 for none, which no count is.
long number(const std::string& word) {
    long value = -1;
    const auto [stop, wrong] = std::from_chars(word.data(), word.data() + word.size(), value);
    return wrong == std::errc() && stop > word.data() ? value : -1;
}

bool fits(const std::string& param) {
    const size_t equals = param.find('=');
    if (equals == std::string::npos || equals == 0) return false;
    if (number(param) > first_array) return true;
    const long length = number(param.substr(equals + 1));
    return length >= 0 && length <= std::count(param.begin(), param.end(), ',');
}

}  // namespace

void check_param_text(const std::string& path) {
    std::ifstream file(path);
    if (!file) throw Failure("there is no " + path + "; convert the package again");
    int at = 0;
    const auto refuse = [&](const char* why) {
        throw Failure(path + " is damaged at line " + std::to_string(at) + " (" + why +
                      "); copy it again or convert again");
    };
    std::map<std::string, int> readers;  // of every blob so far
    long layers = 0, layers_told = 0, blobs_told = 0;
    for (std::string line; std::getline(file, line);) {
        std::istringstream text(line);
        std::vector<std::string> words;
        for (std::string word; text >> word; words.push_back(word))
            if (word.size() > longest_word) refuse("a word is too long");
        if (++at == 1 && (words.size() != 1 || words[0] != "7767517")) refuse("not an ncnn .param");
        if (at == 2 && words.size() != 2) refuse("no counts");
        if (at == 2) layers_told = number(words[0]), blobs_told = number(words[1]);
        if (at < 3 || words.empty()) continue;
        layers++;
        const long bottoms = words.size() < 4 ? -1 : number(words[2]),
                   tops = words.size() < 4 ? -1 : number(words[3]);
        const long room = long(words.size()) - 4;
        if (bottoms < 0 || tops < 0 || bottoms > room || tops > room - bottoms)
            refuse("more blobs are counted than named");
        for (long i = 4; i < 4 + bottoms; i++)
            if (const auto blob = readers.find(words[i]);
                blob == readers.end() || ++blob->second > 1)
                refuse("a blob nobody makes, or two read");
        for (long i = 4 + bottoms; i < 4 + bottoms + tops; i++)
            if (!readers.emplace(words[i], 0).second) refuse("a blob is made twice");
        if (!std::all_of(words.begin() + 4 + bottoms + tops, words.end(), fits))
            refuse("a parameter");
    }
    if (at < 3 || layers != layers_told || long(readers.size()) != blobs_told)
        refuse("its counts are not those of its lines");
}

}  // namespace mpsplit
