// Every path of this machine against the plain one, without Python: what runs under an emulator of
// another machine.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "forms.h"
#include "normal_numbers.h"
#include "qlinear.h"

using namespace mpsplit;

namespace {

ThreadPool& pool() {
    static ThreadPool made(2);
    return made;
}

struct Packed {
    Shape shape;
    void* data;
    explicit Packed(const Shape& s) : shape(s), data(std::aligned_alloc(64, packed_bytes(s))) {
        if (form_of(s.bits).given())
            pack_given();
        else  // with scales of both signs
            pack(s, normal(size_t(s.n) * s.k).data(), data, pool(), Scales::mse);
    }
    ~Packed() { std::free(data); }
    void pack_given() {
        const Form& form = form_of(shape.bits);
        std::vector<int8_t> has, values;
        for (int w = form.low; w <= form.high; w++)
            if (mpsplit::has(form, w)) has.push_back(int8_t(w));
        for (float number : normal(size_t(shape.n) * shape.k))
            values.push_back(has[size_t(std::fabs(number) * 64) % has.size()]);
        std::vector<float> numbers = normal(values.size() / shape.block * form.numbers());
        for (size_t i = 0; i < numbers.size(); i++)
            if (int(i) % form.numbers() >= form.each())
                numbers[i] = form.nibbles ? float(int(std::fabs(numbers[i]) * 4) % 16)
                                          : float(int(numbers[i] * 20));
        pack(shape, values.data(), numbers.data(), data, pool());
    }
    Weights weights() const { return view(shape, data, packed_bytes(shape)); }
};

std::vector<float> run(const Packed& up, const Packed& gate, const std::vector<float>& x, int rows,
                       const Path* path) {
    const Shape& s = up.shape;
    size_t size = size_t(rows) * s.n;
    std::vector<float> y(2 * size);
    std::vector<uint64_t> scratch(scratch_bytes(rows, s) / 8 + 1);
    Weights g = gate.weights();
    Product products[] = {{up.weights(), y.data()},
                          {up.weights(), y.data() + size, nullptr, nullptr, &g}};
    multiply(products, 2, x.data(), rows, scratch.data(), pool(), path);
    return y;
}

bool agree(const Shape& shape, int rows) {
    Packed up(shape), gate(shape);
    std::vector<float> x = normal(size_t(rows) * shape.k),
                       expected = run(up, gate, x, rows, path_named("plain"));
    float peak = 0;
    for (float y : expected) peak = std::max(peak, std::fabs(y));
    for (const std::string& name : path_names()) {
        std::vector<float> y = run(up, gate, x, rows, path_named(name));
        for (size_t i = 0; i < y.size(); i++)
            if (!(std::fabs(y[i] - expected[i]) <= 1e-5f * peak)) {
                std::printf("%s: n %d k %d bits %d block %d rows %d: y[%zu] is %g, plain has %g\n",
                            name.c_str(), shape.n, shape.k, shape.bits, shape.block, rows, i, y[i],
                            expected[i]);
                return false;
            }
    }
    return true;
}

}  // namespace

int main() {
    bool good = true;
    for (int rows : {1, 2, 3, 7, 9, 16, 33})
        for (int n : {1, 15, 17, 64})
            for (int k : {1, 31, 32, 65, 160}) good = good && agree({n, k, 16, 32}, rows);
    for (int bits : {4, 6, 8, table_bits, table_of_3_bits, table_of_2_bits, minimum_bits + 4,
                     minimum_bits + 5})
        for (int block : {32, 64, 128})
            for (int rows : {1, 2, 3, 7, 9, 16, 33})
                for (int n : {1, 15, 17, 64})
                    for (int blocks : {1, 2, 5})
                        good = good && agree({n, blocks * block, bits, block}, rows);
    for (const Form& form : forms)
        for (int rows : {1, 2, 3, 7, 9, 33})
            for (int n : {1, 17, 64})
                for (int k : {256, 768})
                    if (form.parts) good = good && agree({n, k, form.bits, 256}, rows);
    std::printf("%s:", good ? "agree" : "DISAGREE");
    for (const std::string& name : path_names()) std::printf(" %s", name.c_str());
    std::printf("\n");
    return good ? 0 : 1;
}
