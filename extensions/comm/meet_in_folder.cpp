#include "meet_in_folder.h"

#include <unistd.h>
#include <chrono>
#include <fstream>
#include <random>
#include <sstream>
#include <thread>
#include <vector>

#include "comm.h"

namespace mpsplit {

namespace {

namespace fs = std::filesystem;

constexpr auto tick = std::chrono::milliseconds(5);

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

std::string any_number() {
    std::random_device device;
    std::ostringstream text;
    text << std::hex << device() << device();
    return text.str();
}

// Whole or not there.
void write(const fs::path& path, const std::string& text) {
    const fs::path unfinished = path.string() + "." + any_number();
    std::ofstream file(unfinished);
    file << text << std::flush;
    if (!file) throw Error(path.string() + " cannot be written; name another folder to meet in");
    file.close();
    fs::rename(unfinished, path);
}

std::vector<std::string> words_of(const fs::path& path) {
    std::ifstream file(path);
    std::vector<std::string> words;
    for (std::string word; file >> word;) words.push_back(word);
    return words;
}

void take_away(const fs::path& path) {
    std::error_code ignored;  // another rank was faster, or it was never there
    fs::remove_all(path, ignored);
}

// What ranks left that were killed.
void take_away_all(const fs::path& folder, const std::string& beginning) {
    for (const auto& entry : fs::directory_iterator(folder))
        if (entry.path().filename().string().starts_with(beginning)) take_away(entry.path());
}

}  // namespace

Meeting::Meeting(int rank, int size, const std::string& folder, double timeout)
    : rank_(rank),
      size_(size),
      timeout_(timeout),
      folder_(folder),
      number_(any_number()),
      until_(now() + timeout) {
    if (rank < 0 || rank >= size)
        throw Error("rank " + std::to_string(rank) + " is none of " + std::to_string(size) +
                    " ranks; they count from 0");
    fs::create_directories(folder_);
    try {
        rank ? follow() : lead();
    } catch (...) {
        clear();
        throw;
    }
}

Meeting::~Meeting() { clear(); }

void Meeting::clear() const {
    const auto said = words_of(rank_ ? hello(rank_) : folder_ / "meeting");
    if (rank_ && !said.empty() && said[0] == number_) take_away(hello(rank_));
    if (rank_ || run_.empty()) return;
    if (said.size() > 1 && said[1] == run_.filename()) take_away(folder_ / "meeting");
    take_away(run_);
}

fs::path Meeting::hello(int rank) const { return folder_ / ("hello-" + std::to_string(rank)); }

void Meeting::lead() {
    take_away_all(folder_, "run-");
    take_away_all(folder_, "meeting.");
    std::vector<std::string> hellos(size_), known;
    for (;; wait_a_little()) {
        missing_.clear();
        for (int r = 1; r < size_; ++r) {
            const auto said = words_of(hello(r));
            const bool fits = said.size() == 2 && said[1] == std::to_string(size_);
            hellos[r] = fits ? said[0] : "-";
            if (fits && !run_.empty() && hellos == known && fs::exists(run_ / said[0])) continue;
            missing_ += (missing_.empty() ? "rank " : ", ") + std::to_string(r);
            if (said.size() == 2 && !fits) missing_ += " (started for " + said[1] + " ranks)";
        }
        if (hellos != known) {  // somebody came, or came again
            take_away(run_);
            known = hellos;
            run_ = folder_ / ("run-" + any_number());
            fs::create_directories(run_);
            std::string text = std::to_string(size_) + " " + run_.filename().string();
            for (int r = 1; r < size_; ++r) text += " " + hellos[r];
            write(folder_ / "meeting", text);
            continue;
        }
        if (missing_.empty()) break;
    }
    write(run_ / "go", "");
}

void Meeting::follow() {
    take_away_all(folder_, hello(rank_).filename().string() + ".");
    write(hello(rank_), number_ + " " + std::to_string(size_));
    for (;; wait_a_little()) {
        const auto said = words_of(folder_ / "meeting");  // size, run, number of rank 1, ...
        if (said.size() > 1 && said[0] != std::to_string(size_)) {
            missing_ = "rank 0 (started for " + said[0] + " ranks)";
        } else if (said.size() == size_t(size_) + 1 && said[1].starts_with("run-") &&
                   said[1].find('/') == std::string::npos && said[size_t(rank_) + 1] == number_) {
            missing_ = "another rank that rank 0 waits for";
            for (int r = 1; r < size_; ++r)
                if (said[size_t(r) + 1] == "-") missing_ = "rank " + std::to_string(r);
            run_ = folder_ / said[1];
            if (fs::exists(run_ / "go")) return;
            if (fs::exists(run_) && !fs::exists(run_ / number_)) {
                std::ofstream here(run_ / number_);  // fails where rank 0 begins another run
            }
        }
    }
}

void Meeting::wait_a_little() const {
    if (timeout_ > 0 && now() > until_) fail();
    while_waiting();
    std::this_thread::sleep_for(tick);
}

void Meeting::fail() const {
    std::ostringstream text;
    text << "rank " << rank_ << " waited " << timeout_ << " s in " << folder_.string() << " for "
         << missing_ << ", which did not come; start all " << size_
         << " ranks with the same folder and the same number of ranks";
    throw Error(text.str());
}

}  // namespace mpsplit
