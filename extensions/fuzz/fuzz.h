// What a fuzz target defines. Bytes that anybody may have made go in; nothing comes out but an end
// of the process, where something is wrong. libFuzzer calls the same function.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace mpsplit {

using Bytes = std::vector<uint8_t>;

// Inputs of the target's own making, beside those in the folder.
std::vector<Bytes> seeds();

// A package of one rank, made by convert: MPSPLIT_FUZZ_PACKAGE.
inline std::string fuzz_package() {
    const char* folder = std::getenv("MPSPLIT_FUZZ_PACKAGE");
    if (!folder) std::fputs("MPSPLIT_FUZZ_PACKAGE names no package\n", stderr), std::exit(2);
    return folder;
}

inline void expect(bool good, const char* what) {
    if (!good) std::fprintf(stderr, "WRONG: %s\n", what), std::abort();
}

// What people are told is one line of plain words.
inline void expect_told(const char* message) {
    const std::string told = message;
    expect(!told.empty() && told.size() < 2000, "a message has some length");
    for (const char c : told) expect(c != '\n', "a message is one line");
}

}  // namespace mpsplit
