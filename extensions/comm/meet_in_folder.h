// Ranks that find each other in a folder that all of them see, whatever earlier ones left there.
//
// Each rank but the first says hello with a number that it draws. Rank 0 answers with a run that
// names the numbers of all; a rank takes part in a run that names its own, and says so in it. When
// all have, rank 0 lets them go. So what a killed rank left is never taken for one that lives: it
// does not answer, and the next of its number replaces it.
#pragma once

#include <filesystem>
#include <string>

namespace mpsplit {

class Meeting {
  public:
    // Throws an Error that says who came and who did not.
    Meeting(int rank, int size, const std::string& folder, double timeout);
    // Takes away what this rank wrote; of rank 0 the run too.
    ~Meeting();
    Meeting(const Meeting&) = delete;
    Meeting& operator=(const Meeting&) = delete;

    const std::filesystem::path& run() const { return run_; }  // a folder of these ranks alone

  private:
    void lead();
    void follow();
    void clear() const;
    void wait_a_little() const;  // throws when the time is over
    [[noreturn]] void fail() const;
    std::filesystem::path hello(int rank) const;

    const int rank_, size_;
    const double timeout_;
    const std::filesystem::path folder_;
    const std::string number_;
    const double until_;
    std::filesystem::path run_;
    std::string missing_ = "rank 0";  // who has not come so far
};

}  // namespace mpsplit
