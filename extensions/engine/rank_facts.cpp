#include "rank_facts.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <map>
#include <regex>
#include <sstream>
#include <utility>

#include "embedding.h"
#include "failure.h"

namespace mpsplit {
namespace {

// how an encrypted file begins: mpsplit/package/sealed/vault.py
constexpr char sealed[] = "MPSEALED";
constexpr int most = 1 << 24;  // of anything that is counted here: what is more is damage
constexpr int64_t most_angles = int64_t(1) << 26;  // tables of cos and sin of 256 MB each

template <typename T>
std::vector<T> all(std::istream& words) {
    std::vector<T> values;
    for (T value; words >> value;) values.push_back(value);
    return values;
}

// Whether the numbers can be those of a package, so that what is allocated by them is not absurd.
bool possible(const RankFacts& f) {
    for (int count : {f.window, f.embed_start, f.embed_rows, f.head_start, f.head_rows})
        if (count < 0 || count > most) return false;
    for (const auto& [offset, name] : f.packed)
        if (offset < 0) return false;
    for (int member : f.group)
        if (member < 0 || member >= f.ranks) return false;
    for (float frequency : f.inverse_frequencies)
        if (!std::isfinite(frequency)) return false;
    return f.ranks > 0 && f.rank >= 0 && f.rank < f.ranks && f.hidden > 0 && f.hidden <= most &&
           f.context > 0 && f.context <= most && !f.group.empty() &&
           f.group.size() <= size_t(f.ranks) && !f.inverse_frequencies.empty() &&
           std::isfinite(f.rope_scaling) &&
           int64_t(f.context) * int64_t(f.inverse_frequencies.size()) <= most_angles;
}

// No way out of the folder; mpsplit/package/stored/weight_files.py has the same.
bool stays_inside(const std::string& name) {
    static const std::regex plain("weights/[A-Za-z0-9_-]{1,64}[.]bin");
    return name.size() < 100 && std::regex_match(name, plain);
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
    // what stands behind a name; "packed" stands on several lines
    std::map<std::string, std::string> text;
    for (std::string name, line; file >> name && std::getline(file, line);) text[name] += line;
    std::map<std::string, std::istringstream> lines;
    for (const auto& [name, words] : text) lines[name] = std::istringstream(words);
    RankFacts facts;
    auto read = [&](const char* name, auto& value) {
        if (!lines.count(name) || !(lines[name] >> value))
            throw Failure(path + " has no " + name + "; convert the package again");
    };
    const std::pair<const char*, int*> numbers[] = {
        {"ranks", &facts.ranks},           {"rank", &facts.rank},
        {"hidden", &facts.hidden},         {"context", &facts.context},
        {"window", &facts.window},         {"embed_start", &facts.embed_start},
        {"embed_rows", &facts.embed_rows}, {"head_start", &facts.head_start},
        {"head_rows", &facts.head_rows},
    };
    for (const auto& [name, value] : numbers) read(name, *value);
    read("dtype", facts.dtype);
    read("first_stage", facts.first_stage);
    read("rope_scaling", facts.rope_scaling);
    auto check = [&](const std::string& name) {
        if (!stays_inside(name))
            throw Failure(
                path + " is damaged: it names no plain file in weights; convert the package again");
    };
    read("floats", facts.floats);
    check(facts.floats);
    if (facts.first_stage && facts.dtype != mpsplit::head_rows) {
        read("embedding", facts.embedding);
        check(facts.embedding);
    }
    for (RankFacts::Placed file; lines["packed"] >> file.offset >> file.name;) {
        check(file.name);
        facts.packed.push_back(file);
    }
    facts.group = all<int>(lines["group"]);
    facts.inverse_frequencies = all<float>(lines["inverse_frequencies"]);
    if (!possible(facts))
        throw Failure(path + " is damaged: its numbers cannot be; convert the package again");
    return facts;
}

}  // namespace mpsplit
