// What keeps a package from running, told to people.
#pragma once

#include <stdexcept>

namespace mpsplit {

struct Failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

}  // namespace mpsplit
