// cores_test OWN ROOT: prints what cores_of_groups finds.
#include <cstdio>

#include "cores.h"

int main(int, char** words) { std::printf("%d\n", mpsplit::cores_of_groups(words[1], words[2])); }
