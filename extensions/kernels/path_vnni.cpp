// The path of AVX-512 VNNI.
#include "vnni.h"

namespace mpsplit {

extern constinit const Path vnni_path = path_of<Vnni>("vnni", runs_vnni, quantise_lines);

}  // namespace mpsplit
