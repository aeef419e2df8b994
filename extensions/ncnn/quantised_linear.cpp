#include "quantised_linear.h"

#include <stdexcept>

namespace mpsplit {

int QuantisedLinear::load_param(const ncnn::ParamDict& params) {
    setting = static_cast<Setting*>(userdata);
    gated = params.get(7, 0);
    residual = params.get(8, 0);
    for (count = 0; count < most && params.get(10 * count, 0) > 0; count++) {
        auto param = [&](int id) { return params.get(10 * count + id, -1); };
        const Shape shape = {param(0), param(1), param(2), param(3)};
        const int bias = param(6);
        biases[count] =
            bias < 0
                ? nullptr
                : reinterpret_cast<const float*>(setting->packed.at(bias, 4 * int64_t(shape.n)));
        if (bias >= 0 && !biases[count]) return -1;
        try {
            const size_t bytes = packed_bytes(shape);
            const uint8_t* packed = setting->packed.at(param(4), int64_t(bytes));
            if (!packed) return -1;
            weights[count] = view(shape, packed, bytes);
        } catch (const std::invalid_argument&) {
            return -1;
        }
    }
    return count == 0 || (gated && count != 2) || (residual && count != 1) ? -1 : 0;
}

int QuantisedLinear::forward(const std::vector<ncnn::Mat>& in, std::vector<ncnn::Mat>& out,
                             const ncnn::Option& option) const {
    const ncnn::Mat& x = in[0];
    const int made = gated ? 1 : count, k = weights[0].shape.k;
    if (x.dims != 2 || x.w != k || int(out.size()) != made || int(in.size()) != (residual ? 2 : 1))
        return -1;
    if (residual && (in[1].dims != 2 || in[1].w != weights[0].shape.n || in[1].h != x.h)) return -1;
    Product products[most];
    for (int i = 0; i < made; i++) {
        out[i].create(weights[i].shape.n, x.h, sizeof(float), option.blob_allocator);
        if (out[i].empty()) return -100;
        products[i] = {weights[i], out[i], biases[i]};
    }
    if (gated) products[0].gate = &weights[1];
    if (residual) products[0].residual = in[1];
    multiply(products, made, x, x.h, setting->scratch(scratch_bytes(x.h, weights[0].shape)),
             *setting->pool);
    return 0;
}

}  // namespace mpsplit
