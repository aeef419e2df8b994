// Random graphs, run in their arenas without an engine: each layer writes its own number over the
// bytes that it makes, and whoever reads a blob must find there what its layer wrote. What lives at
// the same time and overlaps is found by that, whoever planned it.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "arena.h"
#include "blob_places.h"

using namespace mpsplit;

namespace {

int draw(int below) {
    // NOLINTNEXTLINE(bugprone-random-generator-seed): the same graphs at every run
    static std::mt19937 random_bits(0);
    return int(random_bits() % unsigned(below));
}

void must(bool good, const char* what, int graph) {
    if (good) return;
    std::printf("graph %d: %s\n", graph, what);
    std::exit(1);
}

struct Made {
    std::string name;
    std::vector<int64_t> shape;
    int readers = 0;
};

struct Written {
    std::string type;
    std::vector<int> reads;  // of `made`
    int makes;
};

// Layers of ncnn that write elsewhere (BinaryOp), in place (Swish) or nothing (Reshape).
struct RandomGraph {
    std::vector<Made> made;
    std::vector<Written> layers;
    BlobShapes shapes;

    void add(const std::string& type, std::vector<int> reads, std::vector<int64_t> shape) {
        for (const int read : reads) made[read].readers++;
        layers.push_back({type, std::move(reads), int(made.size())});
        made.push_back({'b' + std::to_string(made.size()), std::move(shape)});
    }

    explicit RandomGraph(int length) {
        for (int i = 0; i <= draw(3); i++) add("Input", {}, {8L * (1 + draw(40)), some_rows});
        add("MemoryData", {}, {8});
        for (int i = 0; i < length; i++) {
            const int recent = int(made.size()) - 1 - draw(std::min(int(made.size()), 6));
            const std::vector<int64_t> shape = made[recent].shape;
            const int64_t heads = 1 + draw(3);
            switch (draw(4)) {
                case 0: add("Swish", {recent}, shape); break;
                case 1:
                    if (shape.size() == 2 && shape[0] % heads == 0)
                        add("Reshape", {recent}, {shape[0] / heads, heads, some_rows});
                    else if (shape.size() == 3)
                        add("Reshape", {recent}, {shape[0] * shape[1], some_rows});
                    break;
                default:
                    add("BinaryOp", {recent, draw(int(made.size()))},
                        {8L * (1 + draw(60)), some_rows});
            }
        }
    }

    // As ncnn reads it, a Split behind whatever has several readers.
    std::string text() {
        std::ostringstream lines;
        std::vector<int> handed(made.size());
        int count = 0, blobs = 0;
        for (const Written& layer : layers) {
            lines << layer.type << " l" << count++ << ' ' << layer.reads.size() << " 1";
            for (const int read : layer.reads) {
                lines << ' ' << made[read].name;
                if (made[read].readers > 1) lines << '_' << handed[read]++;
            }
            const Made& top = made[layer.makes];
            // nobody forwards it, but ncnn refuses a Reshape into nothing
            lines << ' ' << top.name << (layer.type == "Reshape" ? " 0=-1\n" : "\n");
            shapes[top.name] = top.shape, blobs++;
            if (top.readers < 2) continue;
            lines << "Split l" << count++ << " 1 " << top.readers << ' ' << top.name;
            for (int i = 0; i < top.readers; i++, blobs++) {
                lines << ' ' << top.name << '_' << i;
                shapes[top.name + '_' + std::to_string(i)] = top.shape;
            }
            lines << '\n';
        }
        return "7767517\n" + std::to_string(count) + ' ' + std::to_string(blobs) + '\n' +
               lines.str();
    }
};

// The bytes of a blob, and the number that stands in them.
struct Seen {
    ncnn::Mat mat;
    int number = 0;

    size_t floats() const { return mat.dims == 3 ? mat.cstep * mat.c : size_t(mat.w) * mat.h; }
    void write(int new_number) {
        number = new_number;
        for (size_t i = 0; i < floats(); i++) static_cast<int*>(mat.data)[i] = number;
    }
    bool holds() const {
        for (size_t i = 0; i < floats(); i++)
            if (static_cast<const int*>(mat.data)[i] != number) return false;
        return true;
    }
};

class Run {
  public:
    Run(const ncnn::Net& net, BlobPlaces& places, int picked, const std::vector<bool>& kept,
        int graph)
        : net_(net),
          places_(places),
          kept_(kept),
          graph_(graph),
          picked_(picked),
          seen_(net.blobs().size()) {}

    void step(int rows, int answers) {
        places_.begin(rows, answers);
        const size_t floats = size_t(places_.bytes()) / sizeof(float);
        arena_.assign(floats + arena_alignment, 0);
        stay_.clear();
        int number = 0;
        for (int i = 0; i < int(net_.layers().size()); i++) {
            const ncnn::Layer& layer = *net_.layers()[i];
            if (i == picked_) pick(layer.bottoms[0], ++number);
            for (const int bottom : layer.bottoms) read(bottom);
            for (const int top : layer.tops) make(layer, top, number);
            // a layer that does not work in place still reads while it writes
            for (const int bottom : layer.bottoms)
                if (apart(layer, bottom)) read(bottom);
        }
        for (const Seen& seen : stay_) must(seen.holds(), "what stays was written over", graph_);
    }

  private:
    char* base() { return reinterpret_cast<char*>(arena_.data()); }

    void read(int blob) const {
        must(seen_[blob].holds(), "what a layer reads was written over", graph_);
    }

    void make(const ncnn::Layer& layer, int top, int& number) {
        Seen& seen = seen_[top];
        const bool is_split = layer.type == "Split";
        // after a pick, what a Split hands on is what was picked
        seen.mat = is_split ? seen_[layer.bottoms[0]].mat : places_.made(top, base(), nullptr);
        inside(seen);
        const bool same = is_split || (layer.type == "Reshape" && !seen.mat.empty() &&
                                       seen.mat.data == seen_[layer.bottoms[0]].mat.data);
        if (same)
            seen.number = seen_[layer.bottoms[0]].number;
        else
            seen.write(++number);
        if (kept_[top]) stay_.push_back(seen);
    }

    void pick(int blob, int number) {
        read(blob);
        const Seen before = seen_[blob];
        seen_[blob].mat = places_.picked(base(), nullptr);
        inside(seen_[blob]);
        seen_[blob].write(number);
        must(before.holds(), "the rows that are picked lie in those they are picked of", graph_);
    }

    void inside(const Seen& seen) {
        if (seen.mat.empty()) return;
        const char* data = static_cast<const char*>(seen.mat.data);
        must(data >= base() &&
                 data + seen.floats() * sizeof(float) <= base() + size_t(places_.bytes()),
             "a blob is not in the arena", graph_);
    }

    bool apart(const ncnn::Layer& layer, int bottom) const {
        return seen_[layer.tops[0]].mat.data != seen_[bottom].mat.data;
    }

    const ncnn::Net& net_;
    BlobPlaces& places_;
    const std::vector<bool>& kept_;
    int graph_, picked_;
    std::vector<Seen> seen_;
    std::vector<Seen> stay_;
    std::vector<float> arena_;
};

// The layer before which rows are picked, of what is a matrix of rows; -1 for nowhere.
int picked_of(const ncnn::Net& net, const BlobShapes& shapes) {
    const int layers = int(net.layers().size());
    for (int i = draw(layers); i < layers && draw(2); i++) {
        const ncnn::Layer& layer = *net.layers()[i];
        if (layer.type == "BinaryOp" && layer.bottoms[0] != layer.bottoms[1] &&
            shapes.at(net.blobs()[layer.bottoms[0]].name).size() == 2)
            return i;
    }
    return -1;
}

void run_graph(int graph) {
    RandomGraph random(5 + draw(60));
    ncnn::Net net;
    must(net.load_param_mem(random.text().c_str()) == 0, "ncnn does not read it", graph);
    std::vector<bool> kept;
    // outputs are what layers make, not what Splits hand on
    for (const ncnn::Blob& blob : net.blobs())
        kept.push_back(draw(8) == 0 && net.layers()[blob.producer]->type != "Split");
    const int picked = picked_of(net, random.shapes);
    BlobPlaces places(net, random.shapes, picked, int(net.layers().size()), kept);
    Run run(net, places, picked, kept, graph);
    for (const int rows : {1, 7, 2, 7}) run.step(rows, 1 + draw(rows));
}

// Lifetimes alone, of which graphs have only some.
void place_values(int graph) {
    std::vector<Lived> values;
    for (int i = 0; i <= draw(60); i++) {
        const int first = draw(40) - 1;
        values.push_back({arena_alignment * draw(50), first, first + draw(10)});
    }
    const ArenaPlan plan = plan_arena(values);
    for (size_t i = 0; i < values.size(); i++) {
        const int64_t begin = plan.offsets[i], end = begin + values[i].bytes;
        must(begin >= 0 && end <= plan.bytes && begin % arena_alignment == 0, "a wrong place",
             graph);
        for (size_t j = 0; j < i; j++) {
            const bool beside =
                values[i].first <= values[j].last && values[j].first <= values[i].last;
            const bool overlaps =
                begin < plan.offsets[j] + values[j].bytes && plan.offsets[j] < end;
            must(!beside || !overlaps || !values[i].bytes || !values[j].bytes,
                 "two values that live at once overlap", graph);
        }
    }
}

}  // namespace

int main() {
    constexpr int graphs = 500;
    for (int graph = 0; graph < graphs; graph++) run_graph(graph), place_values(graph);
    std::printf("nothing overlaps\n");
}
