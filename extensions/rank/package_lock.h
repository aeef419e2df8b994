// The right to run a package while nobody writes it, as
// mpsplit/package/together/package_lock.py has it; that file says how.
#pragma once

#include <string>

namespace mpsplit {

class PackageLock {
  public:
    // Throws an Error that says who writes there. Where nothing can be locked or written, a package
    // is run without.
    PackageLock(const std::string& package, const std::string& command);
    ~PackageLock();
    PackageLock(const PackageLock&) = delete;

  private:
    void take_own_file(const std::string& command);
    void give_up();

    int folder_ = -1, file_ = -1;
    std::string name_;  // of the file, in the folder
};

}  // namespace mpsplit
