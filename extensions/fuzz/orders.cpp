// Orders, as anybody may have given them, to a rank with a real engine. The input is what rank 0
// sends, message after message. Whatever it is, the rank obeys, or ends with an error that names
// itself and the order.
#include <unistd.h>

#include <filesystem>

#include "engine_slice.h"
#include "follow.h"
#include "fuzz.h"
#include "script_link.h"

using namespace mpsplit;
namespace fs = std::filesystem;

namespace {

// A folder that has the package's rank, and in which a rank may write.
struct Package {
    const fs::path folder =
        fs::temp_directory_path() / ("mpsplit-fuzz-" + std::to_string(getpid()));
    Package() {
        fs::create_directories(folder);
        fs::create_directory_symlink(fs::absolute(fuzz_package() + "/rank-0"), folder / "rank-0");
        slice = std::make_unique<EngineSlice>(folder, std::make_shared<Comm>(0, 1), 1);
    }
    ~Package() {
        slice.reset();
        fs::remove_all(folder);
    }
    void begin_anew() {
        slice->reserve(8, 0);  // when all is written
        for (const auto& entry : fs::directory_iterator(folder))
            if (entry.path().filename() != "rank-0") fs::remove_all(entry.path());
    }

    std::unique_ptr<EngineSlice> slice;
};

}  // namespace

std::vector<Bytes> mpsplit::seeds() { return {}; }

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static Package package;
    package.begin_anew();
    Comm world(std::make_shared<ScriptLink>(data, size), {0, 1});
    try {
        follow(*package.slice, world);
    } catch (const EndOfScript&) {
    } catch (const Error& wrong) {
        expect_told(wrong.what());
        const std::string told = wrong.what();
        expect(told.starts_with("rank 1 cannot obey order ") ||
                   told.starts_with("rank 0 gave order ") ||
                   told.starts_with("a cache of "),  // larger than this machine
               wrong.what());
    }
    return 0;
}
