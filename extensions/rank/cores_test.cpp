// cores_test OWN ROOT: prints what cores_of_groups and left_in_groups find.
#include <cstdio>

#include "cores.h"
#include "memory_left.h"

int main(int, char** words) {
    std::printf("%d %lld\n", mpsplit::cores_of_groups(words[1], words[2]),
                (long long)mpsplit::left_in_groups(words[1], words[2]));
}
