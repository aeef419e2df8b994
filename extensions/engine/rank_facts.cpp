#include "rank_facts.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>
#include <regex>
#include <sstream>

#include "embedding.h"
#include "failure.h"
#include "param_text.h"

namespace mpsplit {
namespace {

// how an encrypted file begins: mpsplit/package/sealed/vault.py
constexpr char sealed[] = "MPSEALED";
constexpr int most = 1 << 24;  // of anything that is counted here: what is more is damage
constexpr int most_ranks = 4096;
constexpr int64_t most_offset = std::numeric_limits<int>::max();
constexpr int64_t most_angles = int64_t(1) << 26;  // tables of cos and sin of 256 MB each

// No way out of the folder; mpsplit/package/stored/weight_files.py has the same.
bool stays_inside(const std::string& name) {
    static const std::regex plain("weights/[A-Za-z0-9_-]{1,64}[.]bin");
    return name.size() < 100 && std::regex_match(name, plain);
}

// The lines of a rank.txt, by name. What is not as it must be is a Failure with its number.
class Lines {
  public:
    Lines(const std::string& text, const std::string& path) : path_(path) {
        std::istringstream lines(text);
        for (std::string line; std::getline(lines, line);) {
            std::istringstream words(line);
            std::string name;
            if (!(words >> name)) continue;
            auto& values = lines_[name].emplace_back();
            for (std::string word; words >> word;) values.push_back(word);
        }
    }

    [[noreturn]] void refuse(const std::string& name, const std::string& why) const {
        throw Failure(path_ + " is damaged (" + name + ": " + why + "); convert the package again");
    }

    const std::vector<std::vector<std::string>>& all(const std::string& name) const {
        static const std::vector<std::vector<std::string>> none;
        const auto found = lines_.find(name);
        return found == lines_.end() ? none : found->second;
    }

    // the words of a line that stands once
    const std::vector<std::string>& words(const std::string& name) const {
        const auto& lines = all(name);
        if (lines.empty()) throw Failure(path_ + " has no " + name + "; convert the package again");
        if (lines.size() > 1) refuse(name, "it stands " + std::to_string(lines.size()) + " times");
        return lines[0];
    }

    const std::string& word(const std::string& name) const {
        const auto& found = words(name);
        if (found.size() != 1) refuse(name, std::to_string(found.size()) + " words, not one");
        return found[0];
    }

    int number(const std::string& name, const std::string& word, int64_t least,
               int64_t most) const {
        int64_t value = 0;
        if (!whole_number(word, value) || value < least || value > most)
            refuse(name, word.substr(0, 40) + " is not from " + std::to_string(least) + " to " +
                             std::to_string(most));
        return int(value);
    }

    int number(const std::string& name, int64_t least, int64_t most) const {
        return number(name, word(name), least, most);
    }

    float fraction(const std::string& name, const std::string& word) const {
        double value = 0;
        const char* const end = word.data() + word.size();
        const auto [stop, wrong] = std::from_chars(word.data(), end, value);
        if (wrong != std::errc() || stop != end || !std::isfinite(float(value)))
            refuse(name, word.substr(0, 40) + " is no number");
        return float(value);
    }

  private:
    const std::string& path_;
    std::map<std::string, std::vector<std::vector<std::string>>> lines_;
};

std::string file_of(const Lines& lines, const std::string& name, const std::string& word) {
    if (!stays_inside(word)) lines.refuse(name, "it names no plain file in weights");
    return word;
}

// The ranks of a stage: ascending, this one among them.
std::vector<int> group_of(const Lines& lines, int ranks, int rank) {
    std::vector<int> group;
    for (const std::string& word : lines.words("group"))
        group.push_back(
            lines.number("group", word, group.empty() ? 0 : int64_t(group.back()) + 1, ranks - 1));
    if (std::find(group.begin(), group.end(), rank) == group.end())
        lines.refuse("group", "rank " + std::to_string(rank) + " is not in it");
    return group;
}

}  // namespace

bool is_sealed(const std::string& path) {
    std::ifstream file(path);
    char first[sizeof sealed] = {};
    return file.read(first, sizeof sealed - 1) && !std::strcmp(first, sealed);
}

RankFacts RankFacts::load(const std::string& path) {
    std::ifstream file(path);
    if (!file) throw Failure("there is no " + path + "; convert the package again");
    if (is_sealed(path))
        throw Failure(path +
                      " is encrypted, and mpsplit-rank has no keys; start `mpsplit run` with "
                      "--key-file on every rank instead");
    std::ostringstream text;
    text << file.rdbuf();
    return parse(text.str(), path);
}

RankFacts RankFacts::parse(const std::string& text, const std::string& path) {
    if (!is_plain(text))
        throw Failure(path + " is damaged (it is no plain text); convert the package again");
    const Lines lines(text, path);
    RankFacts facts;
    facts.ranks = lines.number("ranks", 1, most_ranks);
    facts.rank = lines.number("rank", 0, facts.ranks - 1);
    facts.group = group_of(lines, facts.ranks, facts.rank);
    const struct {
        const char* name;
        int* value;
        int least;
    } numbers[] = {
        {"hidden", &facts.hidden, 1},         {"context", &facts.context, 1},
        {"window", &facts.window, 0},         {"embed_start", &facts.embed_start, 0},
        {"embed_rows", &facts.embed_rows, 0}, {"head_start", &facts.head_start, 0},
        {"head_rows", &facts.head_rows, 0},
    };
    for (const auto& [name, value, least] : numbers) *value = lines.number(name, least, most);
    facts.dtype = lines.word("dtype");
    facts.first_stage = lines.number("first_stage", 0, 1);
    facts.rope_scaling = lines.fraction("rope_scaling", lines.word("rope_scaling"));
    for (const std::string& word : lines.words("inverse_frequencies"))
        facts.inverse_frequencies.push_back(lines.fraction("inverse_frequencies", word));
    const auto angles = int64_t(facts.inverse_frequencies.size());
    if (!angles || angles * facts.context > most_angles)
        lines.refuse("inverse_frequencies", std::to_string(angles) + " of them at " +
                                                std::to_string(facts.context) +
                                                " positions are more than any model has, or none");
    facts.floats = file_of(lines, "floats", lines.word("floats"));
    if (facts.first_stage && facts.dtype != mpsplit::head_rows)
        facts.embedding = file_of(lines, "embedding", lines.word("embedding"));
    for (const auto& words : lines.all("packed")) {
        if (words.size() != 2) lines.refuse("packed", "it takes an offset and a name");
        facts.packed.push_back(
            {lines.number("packed", words[0], 0, most_offset), file_of(lines, "packed", words[1])});
    }
    return facts;
}

}  // namespace mpsplit
