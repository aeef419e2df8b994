// rank.txt: what a rank must know of its package, a name and numbers a line. convert writes it out
// of the manifest, so that C++ reads no JSON.
#pragma once

#include <string>
#include <vector>

namespace mpsplit {

struct RankFacts {
    int ranks = 0, rank = -1;
    std::vector<int> group;                   // the ranks that share this rank's layers
    int hidden = 0, context = 0, window = 0;  // window: tokens that a token sees, 0 for all
    std::string dtype;                        // of the embedding (embedding.h)
    int embed_start = 0, embed_rows = 0, head_start = 0, head_rows = 0;  // rows of the vocabulary
    bool first_stage = false;
    std::vector<float> inverse_frequencies;
    float rope_scaling = 1;

    struct Placed {
        int offset;  // in units of 64 bytes, a multiple of 2 MB
        std::string name;
    };
    // files beside rank.txt: what ncnn's own layers have, and the embedding of a first stage
    std::string floats, embedding;
    std::vector<Placed> packed;  // the matrices of QLinear, as they lie one behind the other

    // a Failure names the path, the line and the number
    static RankFacts load(const std::string& path);
    static RankFacts parse(const std::string& text, const std::string& path);
};

bool is_sealed(const std::string& path);  // an encrypted file, by how it begins

}  // namespace mpsplit
