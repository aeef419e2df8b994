// rank.txt, as anybody may have written it.
#include <algorithm>

#include "failure.h"
#include "fuzz.h"
#include "rank_facts.h"

using namespace mpsplit;

std::vector<Bytes> mpsplit::seeds() { return {}; }

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    try {
        const auto facts =
            RankFacts::parse({reinterpret_cast<const char*>(data), size}, "rank.txt");
        expect(facts.rank >= 0 && facts.rank < facts.ranks, "a rank is one of its ranks");
        expect(std::is_sorted(facts.group.begin(), facts.group.end()), "a group ascends");
        expect(std::count(facts.group.begin(), facts.group.end(), facts.rank) == 1,
               "a rank is in its group once");
        expect(facts.hidden > 0 && facts.context > 0, "sizes are positive");
        expect(!facts.floats.starts_with('/') && facts.floats.find("..") == std::string::npos,
               "a file lies in the package");
    } catch (const Failure& wrong) {
        expect_told(wrong.what());
    }
    return 0;
}
