#include "top_k.h"

#include <algorithm>

namespace mpsplit {
namespace {

struct Entry {
    float value;
    int at;
    bool operator<(const Entry& other) const {  // comes first
        return value > other.value || (value == other.value && at < other.at);
    }
};

}  // namespace

void largest(const float* x, int n, int count, float* values, int64_t* at) {
    // a heap whose front is the last one that is still in; nearly all others fail against it
    static thread_local std::vector<Entry> heap;
    heap.clear();
    for (int i = 0; i < std::min(count, n); i++) heap.push_back({x[i], i});
    std::make_heap(heap.begin(), heap.end());
    for (int i = int(heap.size()); i < n; i++)
        if (x[i] > heap.front().value) {
            std::pop_heap(heap.begin(), heap.end());
            heap.back() = {x[i], i};
            std::push_heap(heap.begin(), heap.end());
        }
    std::sort_heap(heap.begin(), heap.end());
    for (size_t i = 0; i < heap.size(); i++) {
        values[i] = heap[i].value;
        at[i] = heap[i].at;
    }
}

int TopK::load_param(const ncnn::ParamDict& params) {
    k = params.get(0, 0);
    first = params.get(1, 0);
    return k > 0 ? 0 : -1;
}

int TopK::forward(const ncnn::Mat& logits, ncnn::Mat& top, const ncnn::Option& option) const {
    if (logits.dims != 2 || logits.h < 1) return -1;
    const int count = std::min(k, logits.w);
    top.create(count, 2, sizeof(float), option.blob_allocator);
    if (top.empty()) return -100;
    static thread_local std::vector<int64_t> at;
    at.resize(count);
    largest(logits.row(logits.h - 1), logits.w, count, top.row(0), at.data());
    // ids travel as floats: exact up to 16,777,216
    for (int i = 0; i < count; i++) top.row(1)[i] = float(first + at[i]);
    return 0;
}

}  // namespace mpsplit
