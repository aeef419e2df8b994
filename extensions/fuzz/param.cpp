// A rank's graph, as anybody may have written it. What is accepted is loaded and run: nothing in it
// may reach where it must not.
#include <filesystem>
#include <fstream>

#include "engine.h"
#include "failure.h"
#include "fuzz.h"
#include "layer_shapes.h"
#include "param_text.h"

using namespace mpsplit;
namespace fs = std::filesystem;

namespace {

// What the graph is checked against, and a folder in which it can take the place of the right one.
struct Beside {
    std::string package = fuzz_package() + "/rank-0",
                folder = fs::temp_directory_path() / ("mpsplit-fuzz-" + std::to_string(getpid()));
    RankFacts facts = RankFacts::load(package + "/rank.txt");
    int64_t float_bytes = int64_t(fs::file_size(package + "/" + facts.floats));
    Setting setting;

    Beside() {
        const auto alone = std::make_shared<Comm>(0, 1);
        setting.groups = {{0, alone}, {1, alone}};
        for (const auto& [offset, name] : facts.packed)
            setting.packed.pieces.push_back(
                {int64_t(offset) * 64, int64_t(fs::file_size(package + "/" + name))});
        fs::create_directory(folder);
        fs::create_directory_symlink(fs::absolute(package + "/weights"), folder + "/weights");
        fs::copy_file(package + "/rank.txt", folder + "/rank.txt");
    }
    ~Beside() { fs::remove_all(folder); }
};

void run(const Beside& beside, const std::string& text) {
    std::ofstream(beside.folder + "/fused.param") << text;
    Engine engine(beside.folder, std::make_shared<Comm>(0, 1), 1);
    const int64_t pages[] = {2, 0}, prompt[] = {5, 6, 7}, next[] = {8};
    engine.place(0, 0, pages);
    const Engine::Part first = {0, 0, 3}, second = {0, 3, 1};
    for (const auto& logits :
         {engine.step(prompt, {&first, 1}, false), engine.step(next, {&second, 1}, false)})
        expect(logits.rows == 1 && logits.columns == beside.facts.head_rows, "logits of one row");
}

}  // namespace

std::vector<Bytes> mpsplit::seeds() { return {}; }

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const Beside beside;
    const std::string text(reinterpret_cast<const char*>(data), size);
    try {
        const auto layers = parse_param(text, "fused.param");
        check_layers(layers, "fused.param", beside.facts, beside.setting, beside.float_bytes);
        run(beside, text);
    } catch (const Failure& wrong) {
        expect_told(wrong.what());
    }
    return 0;
}
