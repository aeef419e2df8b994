#include "layer_shapes.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <map>
#include <stdexcept>
#include <string_view>

#include "failure.h"
#include "qlinear.h"

namespace mpsplit {
namespace {

using Sizes = std::vector<int64_t>;
constexpr int64_t rows = some_rows, answers = some_answers;

constexpr int64_t widest = 1 << 24, most = std::numeric_limits<int32_t>::max();
constexpr int products = 3, step = 10;  // of a QLinear: at most, and between their ids
constexpr int64_t float_bytes = 4, flag_bytes = 4;

std::string text(const Sizes& shape) {
    std::string told;
    for (const int64_t size : shape)
        told += (told.empty() ? "" : " x ") + (size == rows          ? "rows"
                                               : size == answers     ? "answers"
                                               : size == largest_few ? "the largest"
                                                                     : std::to_string(size));
    return told;
}

// A layer that does not fit; whoever goes through the graph adds where it is.
struct Misfit : std::runtime_error {
    using std::runtime_error::runtime_error;
};

void want(bool good, const std::string& what) {
    if (!good) throw Misfit(what);
}

// One layer, while it is looked at.
struct Looked {
    const ParamLayer& layer;
    std::vector<Sizes> in;
    const RankFacts& facts;
    const Setting& setting;
    int64_t& floats;  // bytes of ncnn's file that the layers before have

    int64_t number(int id, int64_t otherwise) const {
        const auto found = layer.params.find(id);
        int64_t value = otherwise;
        if (found != layer.params.end()) whole_number(found->second, value);
        return value;
    }

    int64_t count(int id) const {
        const int64_t found = number(id, 0);
        want(found > 0 && found <= widest, std::to_string(id) + "=" + std::to_string(found) +
                                               " is not from 1 to " + std::to_string(widest));
        return found;
    }

    // the columns of an input [columns, rows]
    int64_t columns() const {
        const Sizes& shape = in[0];
        want(shape.size() == 2 && shape[0] > 0 && (shape[1] == rows || shape[1] == answers),
             "it reads " + text(shape) + ", not columns x rows");
        return shape[0];
    }

    int64_t angles() const { return int64_t(facts.inverse_frequencies.size()); }
};

using Blobs = std::vector<Sizes>;

Blobs unchanged(const Looked& at) { return Blobs(at.layer.tops.size(), at.in[0]); }

Blobs input(const Looked& at) {
    want(at.layer.tops[0] == "hidden", "the engine gives no " + at.layer.tops[0]);
    return {{at.facts.hidden, rows}};
}

Blobs memory_data(const Looked& at) {
    at.floats += at.count(0) * float_bytes;
    return {{at.count(0)}};
}

Blobs rms_norm(const Looked& at) {
    const int64_t wide = at.count(0);
    at.floats += wide * float_bytes;
    want(at.in[0][0] == wide,
         std::to_string(wide) + " numbers of a norm do not fit " + text(at.in[0]));
    return at.in;
}

Blobs binary(const Looked& at) {
    const bool with_number = at.number(1, 0) == 1;
    want(at.in.size() == (with_number ? 1 : 2), "1=" + std::to_string(int(with_number)) +
                                                    " does not fit " +
                                                    std::to_string(at.in.size()) + " inputs");
    if (!with_number)
        // a bias is a column of numbers
        want(at.in[1] == at.in[0] || at.in[1] == Sizes{at.in[0][0], 1},
             text(at.in[0]) + " and " + text(at.in[1]) + " do not fit");
    return {at.in[0]};
}

// A number of `text` up to `end`, which goes on behind it; -1 for none.
int64_t cut(std::string_view& text, std::string_view end) {
    const size_t stop = text.find(end);
    int64_t value = -1;
    if (stop == 0 || stop > 8) return -1;
    const char *const begin = text.data(), *const behind = begin + stop;
    const auto [last, wrong] = std::from_chars(begin, behind, value);
    const bool whole = wrong == std::errc() && last == behind;
    text.remove_prefix(stop + end.size());
    return whole ? value : -1;
}

Blobs reshape(const Looked& at) {
    const Sizes& shape = at.in[0];
    const auto& params = at.layer.params;
    if (params.size() == 2 && params.count(0) && params.count(1)) {  // a bias: a column
        want(shape.size() == 1 && at.number(0, 0) == shape[0] && at.number(1, 0) == 1,
             text(shape) + " does not become " + std::to_string(at.number(0, 0)) + " x " +
                 std::to_string(at.number(1, 0)));
        return {{shape[0], 1}};
    }
    want(params.size() == 1 && params.count(6), "it says what mpsplit does not write");
    std::string_view said = params.at(6);  // "dim,heads,0h": rows into heads
    const bool quoted = said.starts_with('"');
    if (quoted) said.remove_prefix(1);
    const int64_t dim = cut(said, ","), heads = cut(said, ",0h\"");
    want(quoted && dim > 0 && heads > 0 && said.empty() && shape.size() == 2 &&
             shape[0] == dim * heads && (shape[1] == rows || shape[1] == answers),
         "6=" + params.at(6) + " does not fit " + text(shape));
    return {{dim, heads, shape[1]}};
}

Blobs attention(const Looked& at) {
    const int64_t heads = at.count(0), kv = at.count(1), dim = at.count(2);
    want(heads % kv == 0,
         std::to_string(heads) + " heads do not share " + std::to_string(kv) + " of k and v");
    want(dim == 2 * at.angles(),
         "heads of " + std::to_string(dim) + " turn by " + std::to_string(at.angles()) + " angles");
    for (size_t i = 0; i < 3; i++) {
        const int64_t its = i ? kv : heads;
        want(at.in[i] == Sizes{its * dim, rows} || at.in[i] == Sizes{dim, its, rows},
             std::string(1, "qkv"[i]) + " is " + text(at.in[i]) + ", of " + std::to_string(its) +
                 " heads of " + std::to_string(dim) + " it is " + std::to_string(its * dim) +
                 " x rows");
    }
    return {{heads * dim, rows}};
}

// bytes of a Gemm's matrix: float32, or integers in blocks whose scales follow
int64_t matrix_bytes(int64_t n, int64_t k, int64_t term) {
    if (term == 0) {
        want(n * k <= most, std::to_string(n * k) + " numbers are more than ncnn counts to");
        return flag_bytes + n * k * float_bytes;
    }
    const int64_t bits = term / 100, block = int64_t(32) << term % 100;
    want((bits == 4 || bits == 6 || bits == 8) && block <= 128 && k % block == 0,
         "18=" + std::to_string(term) + " are no blocks of " + std::to_string(k) + " inputs");
    want(n * (k * bits / 8) <= most, "its matrix is larger than ncnn counts to");
    return n * (k * bits / 8) + n * (k / block) * float_bytes;
}

Blobs gemm(const Looked& at) {
    const int64_t n = at.count(8), k = at.count(9), bias = at.number(10, -1);
    want(at.columns() == k, std::to_string(k) + " inputs do not fit " + text(at.in[0]));
    want(bias == -1 || bias == 4, "10=" + std::to_string(bias) + " is no bias");
    want(at.number(3, 0) == 1 && at.number(5, 0) == 1 && at.number(6, 0) == 1,
         "it is no product with a constant");
    at.floats +=
        matrix_bytes(n, k, at.number(18, 0)) + (bias == 4 ? flag_bytes + n * float_bytes : 0);
    return {{n, at.in[0][1]}};
}

Shape shape_of_product(const Looked& at, int first) {
    return {int(at.count(first)), int(at.count(first + 1)), int(at.number(first + 2, 0)),
            int(at.number(first + 3, 0))};
}

// One of the products of a QLinear, whose parameters begin at `first`; gives its outputs.
int64_t product(const Looked& at, int first, int64_t columns) {
    const int64_t n = at.count(first), k = at.count(first + 1), bytes = at.number(first + 5, 0),
                  bias = at.number(first + 6, -1);
    want(k == columns, std::to_string(k) + " inputs do not fit " + text(at.in[0]));
    const Shape shape = shape_of_product(at, first);
    int64_t needed = 0;
    try {
        needed = int64_t(packed_bytes(shape));
    } catch (const std::invalid_argument& wrong) {
        throw Misfit(wrong.what());
    }
    // -1: what its numbers take, which ncnn may not be able to count to
    want(bytes == -1 || bytes == needed, std::to_string(first + 5) + "=" + std::to_string(bytes) +
                                             " bytes, its numbers take " + std::to_string(needed));
    const Packed& packed = at.setting.packed;
    const int64_t offset = at.number(first + 4, -1);
    want(offset >= 0 && packed.at(offset, needed),
         std::to_string(needed) + " bytes at " + std::to_string(offset) + " lie in none of " +
             std::to_string(packed.pieces.size()) + " files of packed weights");
    want(bias >= -1 && (bias < 0 || packed.at(bias, n * float_bytes)),
         "its bias at " + std::to_string(bias) + " lies in no file of packed weights");
    return n;
}

Blobs qlinear(const Looked& at) {
    const int64_t columns = at.columns();
    const bool gated = at.number(7, 0) == 1, residual = at.number(8, 0) == 1;
    Blobs made;
    for (int i = 0; i < products && at.number(step * i, 0); i++) {
        const int first = step * i;
        made.push_back({product(at, first, columns), at.in[0][1]});
        want(read_alike(shape_of_product(at, first), shape_of_product(at, 0)),
             "its linears do not read their input alike");
    }
    const size_t count = made.size();
    want(count > 0, "it is a linear without rows");
    for (const auto& [id, value] : at.layer.params)
        want(id < step * int(count), "it has parameters of more than its linears");
    want(at.layer.tops.size() == (gated ? 1 : count),
         std::to_string(count) + " linears do not make " + std::to_string(at.layer.tops.size()));
    want(at.in.size() == (residual ? 2 : 1),
         "8=" + std::to_string(int(residual)) + " does not fit its inputs");
    if (gated)
        want(count == 2 && made[0] == made[1] && !residual && at.number(6, -1) < 0 &&
                 at.number(16, -1) < 0,
             "7=1 takes two linears of one size without biases");
    if (residual)
        want(count == 1 && at.in[1] == made[0],
             "what is added is " + text(at.in[1]) + ", not " + text(made[0]));
    made.resize(at.layer.tops.size());
    return made;
}

// 1=group, and of some 2: a rank of it, or how many it has
const Comm& group(const Looked& at) {
    at.columns();
    const auto found = at.setting.groups.find(int(at.number(1, -1)));
    want(found != at.setting.groups.end() && found->second,
         "there is no group " + std::to_string(at.number(1, -1)));
    return *found->second;
}

Blobs reduced(const Looked& at) { return group(at), at.in; }

Blobs with_rank(const Looked& at) {
    const int ranks = group(at).size();
    const int64_t rank = at.number(2, -1);
    want(rank >= 0 && rank < ranks,
         "2=" + std::to_string(rank) + " is none of the " + std::to_string(ranks) + " ranks");
    return at.in;
}

Blobs gathered(const Looked& at) {
    const int64_t ranks = group(at).size(), told = at.number(2, -1), columns = at.columns();
    want(told == ranks, "2=" + std::to_string(told) + ", its group has " + std::to_string(ranks));
    want(columns * ranks <= widest,
         std::to_string(columns * ranks) + " columns are more than " + std::to_string(widest));
    return {{columns * ranks, at.in[0][1]}};
}

Blobs top_k(const Looked& at) {
    at.count(0);
    want(at.number(1, 0) == at.facts.head_start, "1=" + std::to_string(at.number(1, 0)) +
                                                     " is not the first row of the head, " +
                                                     std::to_string(at.facts.head_start));
    want(at.in[0] == Sizes{at.facts.head_rows, answers},
         "it looks through " + text(at.in[0]) + ", not " + std::to_string(at.facts.head_rows) +
             " x answers");
    return {{largest_few, 2}};
}

// A parameter: a whole number in a range, a fraction, or a text that its layer looks at.
struct Parameter {
    int id;
    enum Is { whole, fraction, words } is = whole;
    int64_t least = std::numeric_limits<int32_t>::min(), most = mpsplit::most;
};
constexpr Parameter::Is fraction = Parameter::fraction, whole = Parameter::whole;

struct LayerKind {
    const char* type;
    size_t reads, reads_most, makes_most;  // at least one is made
    Blobs (*shapes)(const Looked&);
    std::vector<Parameter> params;
};

const std::vector<LayerKind>& layer_kinds() {
    static const std::vector<Parameter> of_products = [] {
        std::vector<Parameter> all = {{7, whole, 0, 1}, {8, whole, 0, 1}};
        for (int i = 0; i < products; i++)
            for (int j = 0; j < 7; j++) all.push_back({step * i + j});
        return all;
    }();
    static const std::vector<LayerKind> kinds = {
        {"AllGather", 1, 1, 1, gathered, {{1}, {2}}},
        {"AllReduce", 1, 1, 1, reduced, {{1}}},
        {"Attention", 3, 3, 1, attention, {{0}, {1}, {2}, {3, fraction}}},
        // add, subtract, multiply, divide
        {"BinaryOp", 1, 2, 1, binary, {{0, whole, 0, 3}, {1, whole, 0, 1}, {2, fraction}}},
        {"Broadcast", 1, 1, 1, with_rank, {{1}, {2}}},
        {"Gemm",
         1,
         1,
         1,
         gemm,
         {{2, whole, 0, 0},
          {3, whole, 1, 1},
          {4, whole, 0, 0},
          {5, whole, 1, 1},
          {6, whole, 1, 1},
          {7, whole, 0, 0},
          {8},
          {9},
          {10, whole, -1, 4},
          {18, whole, 0, 802}}},
        {"Input", 0, 0, 1, input, {}},
        {"MemoryData", 0, 0, 1, memory_data, {{0}}},
        {"QLinear", 1, 2, products, qlinear, of_products},
        {"RMSNorm", 1, 1, 1, rms_norm, {{0}, {1, fraction}, {2, whole, 1, 1}}},
        {"Recv", 1, 1, 1, with_rank, {{1}, {2}}},
        {"Reshape", 1, 1, 1, reshape, {{0}, {1}, {6, Parameter::words}}},
        {"Send", 1, 1, 1, with_rank, {{1}, {2}}},
        {"Split", 1, 1, size_t(most), unchanged, {}},
        {"Swish", 1, 1, 1, unchanged, {}},
        {"TopK", 1, 1, 1, top_k, {{0}, {1}}},
    };
    return kinds;
}

bool is_fraction(const std::string& word) {
    double value = 0;
    const char* const end = word.data() + word.size();
    const auto [stop, wrong] = std::from_chars(word.data(), end, value);
    return wrong == std::errc() && stop == end &&
           word.find_first_not_of("0123456789.e+-") == std::string::npos;
}

void check_params(const ParamLayer& layer, const LayerKind& kind) {
    for (const auto& [id, value] : layer.params) {
        const std::string said = (std::to_string(id) + "=").append(value, 0, 40);
        const auto known = std::find_if(kind.params.begin(), kind.params.end(),
                                        [id = id](const Parameter& p) { return p.id == id; });
        want(known != kind.params.end(), "it says " + said + ", which mpsplit does not write");
        int64_t number = 0;
        if (known->is == Parameter::whole)
            want(whole_number(value, number) && number >= known->least && number <= known->most,
                 said + " is out of range");
        if (known->is == Parameter::fraction) want(is_fraction(value), said + " is no number");
    }
}

Blobs shapes_of(const Looked& at) {
    const auto& kinds = layer_kinds();
    const auto kind = std::find_if(kinds.begin(), kinds.end(), [&](const LayerKind& known) {
        return known.type == at.layer.type;
    });
    want(kind != kinds.end(), "mpsplit does not write such a layer");
    const size_t reads = at.in.size(), makes = at.layer.tops.size();
    want(reads >= kind->reads && reads <= kind->reads_most && makes >= 1 &&
             makes <= kind->makes_most,
         "it reads " + std::to_string(reads) + " blobs and makes " + std::to_string(makes));
    check_params(at.layer, *kind);
    return kind->shapes(at);
}

}  // namespace

BlobShapes check_layers(const std::vector<ParamLayer>& layers, const std::string& path,
                        const RankFacts& facts, const Setting& setting, int64_t float_bytes) {
    constexpr const char* remedy = "; copy it again or convert again";
    BlobShapes made;
    int64_t floats = 0;
    for (const ParamLayer& layer : layers) try {
            Looked at = {layer, {}, facts, setting, floats};
            for (const std::string& blob : layer.bottoms) {
                at.in.push_back(made.at(blob));
                // after the last hidden state go the rows that are asked for
                if (blob == "hidden_out")
                    std::replace(at.in.back().begin(), at.in.back().end(), rows, answers);
            }
            Blobs shapes = shapes_of(at);
            for (size_t i = 0; i < shapes.size(); i++) made[layer.tops[i]] = std::move(shapes[i]);
        } catch (const Misfit& wrong) {
            throw Failure(path + " is damaged at line " + std::to_string(layer.line) + " (" +
                          layer.name.substr(0, 100) + ", " + layer.type.substr(0, 40) + ": " +
                          wrong.what() + ")" + remedy);
        }
    const auto expect = [&](const char* blob, const Sizes& wanted) {
        const auto found = made.find(blob);
        if (found == made.end() || found->second != wanted)
            throw Failure(path + " is damaged (" + blob + " is " +
                          (found == made.end() ? "missing" : text(found->second)) +
                          ", it must be " + text(wanted) + ")" + remedy);
    };
    expect("hidden", {facts.hidden, rows});
    expect("hidden_out", {facts.hidden, rows});
    if (facts.head_rows) {
        expect("logits", {facts.head_rows, answers});
        expect("top", {largest_few, 2});
    }
    if (floats != float_bytes)
        throw Failure(path + " is damaged (its floats take " + std::to_string(floats) +
                      " bytes, their file has " + std::to_string(float_bytes) + ")" + remedy);
    return made;
}

}  // namespace mpsplit
