#include "package_lock.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <memory>
#include <thread>
#include <vector>

#include "comm.h"

namespace mpsplit {
namespace {

constexpr char prefix[] = ".in-use.", suffix[] = ".json";
constexpr auto patience = std::chrono::seconds(10);
constexpr size_t letters = 200, most_bytes = 1 << 16;

bool one_of(int code, std::initializer_list<int> codes) {
    return std::find(codes.begin(), codes.end(), code) != codes.end();
}

bool cannot_lock(int code) {
    return one_of(code, {ENOLCK, ENOTSUP, EOPNOTSUPP, EBADF, EINVAL, ENOSYS});
}

bool cannot_write(int code) { return one_of(code, {EROFS, EACCES, EPERM, ENOSPC, EDQUOT}); }

struct Descriptor {
    const int number;
    ~Descriptor() {
        if (number >= 0) close(number);
    }
};

// What stands behind a name in the file of a holder; our own writers put no quotes in it.
std::string field(const std::string& text, const std::string& name) {
    const size_t at = text.find("\"" + name + "\": ");
    if (at == std::string::npos) return "?";
    size_t begin = at + name.size() + 4;
    if (text[begin] != '"') return text.substr(begin, text.find_first_of(",}", begin) - begin);
    begin++;
    return text.substr(begin, text.find('"', begin) - begin);
}

// No word of it ends a text of JSON, or a line.
std::string plain(std::string text, size_t most) {
    for (char& letter : text)
        if (letter == '"' || letter == '\\' || std::iscntrl(uint8_t(letter))) letter = ' ';
    return text.substr(0, most);
}

std::string this_node() {
    char name[65] = {};
    gethostname(name, sizeof name - 1);
    return name;
}

std::vector<std::string> holders(const std::string& package) {
    std::vector<std::string> found;
    const std::unique_ptr<DIR, int (*)(DIR*)> listed(opendir(package.c_str()), closedir);
    while (const dirent* entry = listed ? readdir(listed.get()) : nullptr) {
        const std::string name = entry->d_name;
        if (name.starts_with(prefix) && name.ends_with(suffix)) found.push_back(name);
    }
    return found;
}

// While others look at the files too, which takes them a millisecond.
bool open_door(int folder, const std::string& package) {
    const auto until = std::chrono::steady_clock::now() + patience;
    while (flock(folder, LOCK_EX | LOCK_NB)) {
        if (errno != EWOULDBLOCK) return false;
        if (std::chrono::steady_clock::now() > until)
            throw Error("another process looks into " + package + " for 10 s; end it");
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return true;
}

// Of those who live; what is left of the dead goes.
void refuse_writers(int folder, const std::string& package) {
    for (const std::string& name : holders(package)) {
        const Descriptor file{openat(folder, name.c_str(), O_RDONLY | O_CLOEXEC)};
        if (file.number < 0) continue;
        if (!flock(file.number, LOCK_EX | LOCK_NB)) {
            unlinkat(folder, name.c_str(), 0);
            continue;
        }
        std::string text(most_bytes, '\0');
        text.resize(size_t(std::max<ssize_t>(0, pread(file.number, text.data(), text.size(), 0))));
        if (field(text, "writes") == "false") continue;
        throw Error(package + " is being " + field(text, "doing") + " by process " +
                    field(text, "pid") + " (" + field(text, "command") + ", since " +
                    field(text, "since") + "); wait for it or end it");
    }
}

}  // namespace

PackageLock::PackageLock(const std::string& package, const std::string& command)
    : folder_(open(package.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    if (folder_ < 0)
        throw Error("there is no package at " + package + " (" + std::strerror(errno) +
                    "); make one with `mpsplit partition`");
    try {
        if (open_door(folder_, package)) {
            refuse_writers(folder_, package);
            take_own_file(command);
        }
        const int wrong = file_ < 0 ? errno : 0;
        flock(folder_, LOCK_UN);
        if (cannot_lock(wrong))
            std::fprintf(stderr,
                         "mpsplit: files of %s cannot be locked (%s): see to it that nobody writes "
                         "there while others use it\n",
                         package.c_str(), std::strerror(wrong));
        else if (wrong && !cannot_write(wrong))
            throw Error(package + " cannot be written (" + std::strerror(wrong) +
                        "); name another folder, or make room");
    } catch (...) {
        give_up();
        throw;
    }
}

PackageLock::~PackageLock() { give_up(); }

// It has its name only once it is locked and whole, or others would take it for a dead one's.
// Leaves errno where it cannot be had.
void PackageLock::take_own_file(const std::string& command) {
    const std::string host = this_node(), pid = std::to_string(getpid());
    std::string safe = host.substr(0, 64);
    for (char& letter : safe)
        if (!std::isalnum(uint8_t(letter)) && !std::strchr("_.-", letter)) letter = '_';
    const std::string name = prefix + safe + "." + pid + ".rank" + suffix;
    const std::string unfinished = name + ".partial";
    char since[8] = {};
    const std::time_t now = std::time(nullptr);
    tm local{};
    std::strftime(since, sizeof since, "%H:%M", localtime_r(&now, &local));
    const std::string text = R"({"doing": "run", "writes": false, "job": "", "command": ")" +
                             plain(command, letters) + R"(", "pid": )" + pid + R"(, "host": ")" +
                             plain(host, letters) + R"(", "since": ")" + since + "\"}";
    file_ = openat(folder_, unfinished.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (file_ < 0) return;
    if (!flock(file_, LOCK_EX | LOCK_NB) &&
        write(file_, text.data(), text.size()) == ssize_t(text.size()) &&
        !renameat(folder_, unfinished.c_str(), folder_, name.c_str())) {
        name_ = name;
        return;
    }
    const int wrong = errno;
    unlinkat(folder_, unfinished.c_str(), 0);
    close(file_);
    file_ = -1;
    errno = wrong;
}

void PackageLock::give_up() {
    if (!name_.empty()) unlinkat(folder_, name_.c_str(), 0);
    if (file_ >= 0) close(file_);
    if (folder_ >= 0) close(folder_);
}

}  // namespace mpsplit
