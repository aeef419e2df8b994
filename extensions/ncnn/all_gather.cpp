#include "all_gather.h"

#include <algorithm>
#include <limits>

namespace mpsplit {

int AllGather::forward(const ncnn::Mat& x, ncnn::Mat& y, const ncnn::Option& option) const {
    const int ranks = comm->size();
    if (x.dims != 2 || int64_t(x.w) * ranks > std::numeric_limits<int>::max()) return -1;
    y.create(x.w * ranks, x.h, sizeof(float), option.blob_allocator);
    if (y.empty()) return -100;
    auto* blocks =
        static_cast<float*>(static_cast<Setting*>(userdata)->scratch(size_t(ranks) * bytes_of(x)));
    comm->all_gather(x.data, bytes_of(x), blocks);
    for (int rank = 0; rank < ranks; rank++)
        for (int row = 0; row < x.h; row++)
            std::copy_n(blocks + (size_t(rank) * x.h + row) * x.w, x.w,
                        y.row(row) + size_t(rank) * x.w);
    return 0;
}

}  // namespace mpsplit
