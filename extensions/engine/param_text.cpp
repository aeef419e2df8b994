#include "param_text.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <set>
#include <sstream>
#include <string_view>

#include "failure.h"

namespace mpsplit {
namespace {

constexpr size_t longest_word = 255;  // ncnn's buffers; longer ones would be read as two
constexpr int64_t largest_id = 32;    // of a parameter, as ncnn has it

std::vector<std::string> words_of(const std::string& line) {
    std::istringstream text(line);
    std::vector<std::string> words;
    for (std::string word; text >> word;) words.push_back(word);
    return words;
}

// What ncnn reads as the end of a line or of a word must be one here.
bool printable(char c) { return c == '\n' || (c >= ' ' && c <= '~'); }

class Reader {
  public:
    explicit Reader(const std::string& path) : path_(path) {}

    std::vector<ParamLayer> read(const std::string& text) {
        if (!is_plain(text)) refuse("it is no plain text");
        std::istringstream lines(text);
        int64_t layers = -1, blobs = -1;
        std::vector<ParamLayer> found;
        for (std::string line; std::getline(lines, line);) {
            line_++;
            const auto words = words_of(line);
            for (const std::string& word : words)
                if (word.size() > longest_word) refuse("a word is too long");
            if (line_ == 1 && (words.size() != 1 || words[0] != "7767517"))
                refuse("not an ncnn .param");
            if (line_ == 2 && (words.size() != 2 || !whole_number(words[0], layers) ||
                               !whole_number(words[1], blobs)))
                refuse("no counts");
            if (line_ > 2 && !words.empty()) found.push_back(layer(words));
        }
        if (line_ < 3 || int64_t(found.size()) != layers || int64_t(made_.size()) != blobs)
            refuse("its counts are not those of its lines");
        return found;
    }

  private:
    [[noreturn]] void refuse(const std::string& why) const {
        throw Failure(path_ + " is damaged at line " + std::to_string(line_) + " (" + why +
                      "); copy it again or convert again");
    }

    ParamLayer layer(const std::vector<std::string>& words) {
        int64_t bottoms = -1, tops = -1;
        if (words.size() < 4 || !whole_number(words[2], bottoms) || !whole_number(words[3], tops))
            refuse("no layer");
        const auto room = int64_t(words.size()) - 4;
        if (bottoms < 0 || tops < 0 || bottoms > room || tops > room - bottoms)
            refuse("more blobs are counted than named");
        const auto first = words.begin() + 4, middle = first + bottoms, last = middle + tops;
        ParamLayer found = {line_, words[0], words[1], {first, middle}, {middle, last}, {}};
        for (const std::string& blob : found.bottoms)
            if (!unread_.erase(blob)) refuse("a blob nobody makes, or two read");
        for (const std::string& blob : found.tops)
            if (unread_.insert(blob), !made_.insert(blob).second) refuse("a blob is made twice");
        for (auto word = last; word != words.end(); ++word) {
            const size_t equals = word->find('=');
            int64_t id = -1;
            if (equals == std::string::npos || !whole_number(word->substr(0, equals), id) ||
                id < 0 || id >= largest_id || equals + 1 == word->size() ||
                !found.params.emplace(int(id), word->substr(equals + 1)).second)
                refuse("the parameter " + word->substr(0, 40));
        }
        return found;
    }

    const std::string& path_;
    int line_ = 0;
    std::set<std::string> made_, unread_;
};

}  // namespace

bool is_plain(const std::string& text) { return std::all_of(text.begin(), text.end(), printable); }

bool whole_number(const std::string& word, int64_t& value) {
    const char* const end = word.data() + word.size();
    const auto [stop, wrong] = std::from_chars(word.data(), end, value);
    return wrong == std::errc() && stop == end && !word.empty();
}

std::vector<ParamLayer> parse_param(const std::string& text, const std::string& path) {
    return Reader(path).read(text);
}

std::vector<ParamLayer> read_param(const std::string& path) {
    std::ifstream file(path);
    if (!file) throw Failure("there is no " + path + "; convert the package again");
    std::ostringstream text;
    text << file.rdbuf();
    return parse_param(text.str(), path);
}

}  // namespace mpsplit
