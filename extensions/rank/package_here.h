// Which package lies on this host, and whether all of it is in its place.
#pragma once

#include <cstdint>
#include <string>

namespace mpsplit {

// Throws an Error where a conversion has ended and was killed before what is new lay in its place;
// mpsplit/package/together/package_commit.py puts it there.
void refuse_unfinished(const std::string& package);

// A number that differs where packages do, as mpsplit/package/manifest.py counts it.
int64_t package_number(const std::string& package);

}  // namespace mpsplit
