#include "rank_facts.h"

#include <fstream>
#include <map>
#include <sstream>
#include <utility>

#include "failure.h"

namespace mpsplit {
namespace {

template <typename T>
std::vector<T> all(std::istream& words) {
    std::vector<T> values;
    for (T value; words >> value;) values.push_back(value);
    return values;
}

}  // namespace

RankFacts RankFacts::load(const std::string& path) {
    std::ifstream file(path);
    if (!file) throw Failure("there is no " + path + "; convert the package again");
    std::map<std::string, std::istringstream> lines;
    for (std::string name, line; file >> name && std::getline(file, line);) lines[name] = std::istringstream(line);
    RankFacts facts;
    auto read = [&](const char* name, auto& value) {
        if (!lines.count(name) || !(lines[name] >> value)) throw Failure(path + " has no " + name + "; convert the package again");
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
    facts.group = all<int>(lines["group"]);
    facts.inverse_frequencies = all<float>(lines["inverse_frequencies"]);
    if (facts.group.empty() || facts.inverse_frequencies.empty() || facts.hidden < 1 || facts.context < 1)
        throw Failure(path + " is damaged; convert the package again");
    return facts;
}

}  // namespace mpsplit
