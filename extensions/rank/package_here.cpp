#include "package_here.h"

#include <filesystem>
#include <fstream>

#include "comm.h"

namespace mpsplit {
namespace {

// of zlib
uint32_t crc32(uint32_t crc, const std::string& text) {
    crc = ~crc;
    for (const char letter : text) {
        crc ^= uint8_t(letter);
        for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

}  // namespace

void refuse_unfinished(const std::string& package) {
    if (std::filesystem::is_directory(package + "/.committed"))
        throw Error(package + " was converted, and what is new is not yet in its place here; run " +
                    "`mpsplit inspect " + package + "` once on this host");
}

int64_t package_number(const std::string& package) {
    std::ifstream manifest(package + "/manifest.json");
    if (!manifest)
        throw Error("there is no " + package +
                    "/manifest.json; copy the whole package here, or run " + "`mpsplit convert " +
                    package + "` first");
    uint32_t number = 0;
    bool counts = true;
    for (std::string line; std::getline(manifest, line);) {
        if (line.starts_with(" \"") || line.starts_with('}'))  // what is on the top level
            counts = !line.starts_with(" \"verified\"");
        if (line.ends_with(',')) line.pop_back();
        if (counts) number = crc32(number, line);
    }
    return number;
}

}  // namespace mpsplit
