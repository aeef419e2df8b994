#include "attention_layer.h"

namespace mpsplit {
namespace {

Strided rows_of(const ncnn::Mat& x) { return {x, x.dims == 3 ? x.cstep : size_t(x.w)}; }

// [rows, heads * dim], or [rows][heads, dim]
bool has_heads(const ncnn::Mat& x, int64_t rows, int heads, int dim) {
    return x.dims == 3 ? x.c == rows && x.h == heads && x.w == dim
                       : x.dims == 2 && x.h == rows && x.w == int64_t(heads) * dim;
}

}  // namespace

int AttentionLayer::load_param(const ncnn::ParamDict& params) {
    const int kv_heads = params.get(1, 0), dim = params.get(2, 0);
    heads = params.get(0, 0);
    scale = params.get(3, 0.f);
    if (kv_heads < 1 || heads < kv_heads || heads % kv_heads || dim < 2 || dim % 2) return -1;
    auto& setting = *static_cast<Setting*>(userdata);
    if (dim != 2 * setting.angles) return -1;
    cache = std::make_unique<KeyValueCache>(kv_heads, dim, setting.pages);
    setting.caches.push_back(cache.get());
    return 0;
}

int AttentionLayer::forward(const std::vector<ncnn::Mat>& in, std::vector<ncnn::Mat>& out,
                            const ncnn::Option& option) const {
    Setting& setting = *static_cast<Setting*>(userdata);
    const Strided q = rows_of(in[0]), k = rows_of(in[1]), v = rows_of(in[2]);
    const int64_t rows = setting.rows();
    if (in.size() != 3 || !has_heads(in[0], rows, heads, cache->dim) ||
        !has_heads(in[1], rows, cache->heads, cache->dim) ||
        !has_heads(in[2], rows, cache->heads, cache->dim))
        return -1;
    out[0].create(heads * cache->dim, int(rows), sizeof(float), option.blob_allocator);
    if (out[0].empty()) return -100;
    const Attention attention = {*cache, heads, scale, setting.window, setting.rotation};
    auto* scratch = static_cast<float*>(setting.scratch(
        attention_scratch_floats(attention, setting.pool->threads()) * sizeof(float)));
    attend(attention, setting.runs, q, k, v, out[0], scratch, *setting.pool);
    return 0;
}

}  // namespace mpsplit
