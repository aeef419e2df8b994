// Runs a fuzz target over inputs that it changes, where the compiler brings no libFuzzer.
//   TARGET FOLDER [--seed N] [--seconds S] [--runs N]   changes the inputs in the folder
//   TARGET FILE                                         this one alone
//
// In: seeds. Out: 0; or the sanitizer's report, and the input in a file. Invariant: the same seed,
// folder and build try the same inputs in the same order; time alone decides how many.
//
// An input that reaches new code (reached.h) is kept and changed further.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string_view>

#include "fuzz.h"
#include "reached.h"

extern "C" void __sanitizer_set_death_callback(void (*callback)());

// the sanitizer looks for it by name
extern "C" __attribute__((visibility("default"))) const char* __asan_default_options() {
    // what asks for so much believes a number of the input; a cache of pages asks by mmap
    return "handle_abort=1:max_allocation_size_mb=1024:allocator_may_return_null=0:"
           "detect_leaks=0:print_stats=0";
}

namespace {

using namespace mpsplit;

// -- changes --------------------------------------------------------------------------------------

class Changes {
  public:
    explicit Changes(uint64_t seed) : random_(seed) {}

    size_t below(size_t end) { return end ? size_t(random_() % end) : 0; }

    Bytes of(const std::vector<Bytes>& corpus) {
        Bytes data = corpus[below(corpus.size())];
        for (size_t i = 0, count = 1 + below(4); i < count; ++i) change(data, corpus);
        if (data.size() > longest) data.resize(longest);
        return data;
    }

  private:
    static constexpr size_t longest = 1 << 20;

    void change(Bytes& data, const std::vector<Bytes>& corpus) {
        switch (below(8)) {
            case 0: return bit(data);
            case 1: return number(data);
            case 2: return number(data);
            case 3: return digits(data);
            case 4: return digits(data);
            case 5: return cut(data);
            case 6: return doubled(data);
            default: return joined(data, corpus[below(corpus.size())]);
        }
    }

    void bit(Bytes& data) {
        if (!data.empty()) data[below(data.size())] ^= uint8_t(1 << below(8));
    }

    // one of 1, 2, 4 or 8 bytes, most often where such numbers lie
    void number(Bytes& data) {
        static constexpr int64_t odd[] = {0,        1,        -1,        2,         3,
                                          7,        8,        31,        32,        33,
                                          100,      127,      128,       255,       -128,
                                          1 << 16,  1 << 24,  1 << 28,   INT32_MAX, INT32_MIN,
                                          1L << 32, 1L << 53, INT64_MAX, INT64_MIN, -5};
        const size_t bytes = size_t(1) << (below(4) ? 3 : below(4));
        if (data.size() < bytes) return;
        const size_t at = below(data.size() / bytes) * bytes;
        int64_t value = 0;
        std::memcpy(&value, &data[at], bytes);
        value = below(3) ? odd[below(std::size(odd))]
                         : int64_t(uint64_t(value) + uint64_t(below(9)) - 4);
        std::memcpy(&data[at], &value, bytes);
    }

    // a number in text becomes another
    void digits(Bytes& data) {
        static constexpr std::string_view odd[] = {
            "0",   "1",   "-1",    "2",     "3",          "7",          "16",
            "32",  "64",  "127",   "128",   "129",        "4096",       "65536",
            "1e9", "nan", "1e-40", "99999", "2147483647", "2147483648", "9223372036854775807"};
        const size_t start = below(data.size());
        const auto digit = [](uint8_t c) { return c >= '0' && c <= '9'; };
        auto first = std::find_if(data.begin() + ptrdiff_t(start), data.end(), digit);
        if (first == data.end()) return;
        const auto last = std::find_if_not(first, data.end(), digit);
        const std::string_view text = odd[below(std::size(odd))];
        first = data.erase(first, last);
        data.insert(first, text.begin(), text.end());
    }

    // from where to where: bytes, numbers of 8 bytes, words or lines
    std::pair<size_t, size_t> piece(const Bytes& data) {
        if (data.empty()) return {0, 0};
        const size_t at = below(data.size()), kind = below(4);
        if (kind == 0) return {at, std::min(data.size(), at + 1 + below(16))};
        if (kind == 1) {
            const size_t first = at / 8 * 8;
            return {first, std::min(data.size(), first + 8 * (1 + below(16)))};
        }
        const auto ends = [kind](uint8_t c) { return c == '\n' || (kind == 2 && c == ' '); };
        const auto middle = data.begin() + ptrdiff_t(at);
        const auto first = std::find_if(std::reverse_iterator(middle), data.rend(), ends).base();
        const auto last = std::find_if(middle, data.end(), ends);
        // a word takes the blank before it along, a line its end
        const bool blank = kind == 2 && first != data.begin(),
                   end = kind == 3 && last != data.end();
        return {size_t(first - data.begin()) - blank, size_t(last - data.begin()) + end};
    }

    void cut(Bytes& data) {
        const auto [first, last] = piece(data);
        data.erase(data.begin() + ptrdiff_t(first), data.begin() + ptrdiff_t(last));
    }

    void doubled(Bytes& data) {
        const auto [first, last] = piece(data);
        const Bytes copy(data.begin() + ptrdiff_t(first), data.begin() + ptrdiff_t(last));
        const size_t to = below(2) ? first : piece(data).first;
        data.insert(data.begin() + ptrdiff_t(to), copy.begin(), copy.end());
    }

    // a piece of another input takes the place of one of ours
    void joined(Bytes& data, const Bytes& other) {
        const auto [first, last] = piece(other);
        const Bytes copy(other.begin() + ptrdiff_t(first), other.begin() + ptrdiff_t(last));
        const auto [from, to] = piece(data);
        data.erase(data.begin() + ptrdiff_t(from), data.begin() + ptrdiff_t(to));
        data.insert(data.begin() + ptrdiff_t(from), copy.begin(), copy.end());
    }

    std::mt19937_64 random_;
};

// -- running --------------------------------------------------------------------------------------

constexpr unsigned slowest = 10;  // seconds of one input

struct Run {
    std::string name, found;  // the program, and the file for an input that ends it
    uint64_t seed = 1;
    size_t number = 0;
    const Bytes* input = nullptr;
} now;

void tell() {
    if (!now.input) return;
    std::ofstream(now.found, std::ios::binary)
        .write(reinterpret_cast<const char*>(now.input->data()),
               std::streamsize(now.input->size()));
    std::fprintf(stderr, "%s: seed %lu found this with input %zu; again: %s %s\n", now.name.c_str(),
                 (unsigned long)now.seed, now.number, now.name.c_str(), now.found.c_str());
}

void too_slow(int) {
    std::fprintf(stderr, "WRONG: an input takes more than %u s\n", slowest);
    std::abort();
}

void try_one(const Bytes& data) {
    now.input = &data, ++now.number;
    begin_way();
    alarm(slowest);
    const Bytes exact(data.begin(), data.end());  // no room behind it that nobody would notice
    LLVMFuzzerTestOneInput(exact.data(), exact.size());
    alarm(0);
    now.input = nullptr;
}

Bytes bytes_of(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<Bytes> inputs_of(const std::filesystem::path& path) {
    if (!std::filesystem::is_directory(path)) return {bytes_of(path)};
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(path))
        files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    std::vector<Bytes> found;
    for (const auto& file : files) found.push_back(bytes_of(file));
    return found;
}

}  // namespace

int main(int count, char** words) {
    using Clock = std::chrono::steady_clock;
    double seconds = 10;
    size_t runs = SIZE_MAX;
    if (count < 2) return std::fprintf(stderr, "usage: %s FOLDER or FILE\n", words[0]), 2;
    for (int i = 2; i + 1 < count; i += 2) {
        const std::string_view option = words[i];
        if (option == "--seed") now.seed = std::stoull(words[i + 1]);
        if (option == "--seconds") seconds = std::stod(words[i + 1]);
        if (option == "--runs") runs = std::stoull(words[i + 1]);
    }
    now.name = words[0];
    now.found = std::filesystem::path(now.name).filename().string() + ".found";
    __sanitizer_set_death_callback(tell);
    signal(SIGALRM, too_slow);

    std::vector<Bytes> corpus = inputs_of(words[1]);
    const bool alone = !std::filesystem::is_directory(words[1]);
    if (!alone)
        for (Bytes& own : seeds()) corpus.push_back(std::move(own));
    for (const Bytes& data : corpus) try_one(data);
    if (alone) return 0;
    expect(!corpus.empty(), "there are seeds");

    Changes changes(now.seed);
    const size_t given = corpus.size(), from_seeds = reached.ways;
    const auto end = Clock::now() + std::chrono::duration<double>(seconds);
    while (now.number < runs && Clock::now() < end) {
        Bytes data = changes.of(corpus);
        const size_t known = reached.ways;
        try_one(data);
        if (reached.ways > known) corpus.push_back(std::move(data));
    }
    std::printf("%s: seed %lu, %zu inputs of %zu seeds, ways %zu -> %zu, %zu inputs kept\n",
                std::filesystem::path(now.name).filename().c_str(), (unsigned long)now.seed,
                now.number, given, from_seeds, reached.ways, corpus.size() - given);
}
