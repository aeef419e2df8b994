// The Python module _kernels: numpy arrays in and out, for tests and the bench.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>

#include "attention.h"
#include "forms.h"
#include "gptq.h"
#include "qlinear.h"
#include "read_through.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace mpsplit;

namespace {

template <class T, class... Rest>
using In = nb::ndarray<const T, nb::c_contig, nb::device::cpu, Rest...>;
using Rows = In<float, nb::ndim<2>>;
template <class T, class... Rest>
using Out = nb::ndarray<nb::numpy, T, Rest...>;

void expect(bool good, const char* text) {
    if (!good) throw std::invalid_argument(text);
}

// One for each number of threads that was asked for, as long as the process.
ThreadPool& pool_of(int threads) {
    static std::mutex mutex;
    static auto& pools = *new std::map<int, ThreadPool>;
    expect(threads >= 1 && threads <= 1024, "threads are 1 to 1024");
    const std::lock_guard held(mutex);
    return pools.try_emplace(threads, threads).first->second;
}

// an array of our own, at a multiple of 64 bytes
template <class T>
Out<T> array(std::initializer_list<size_t> shape) {
    size_t bytes = sizeof(T);
    for (size_t size : shape) bytes *= size;
    T* data = static_cast<T*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
    if (!data) throw std::bad_alloc();
    return Out<T>(data, shape, nb::capsule(data, [](void* p) noexcept { std::free(p); }));
}

Shape shape_of(const auto& rows, int bits, int block) {
    return {int(rows.shape(0)), int(rows.shape(1)), bits, block};
}

Scales scales_named(const std::string& name) {
    expect(name == "minmax" || name == "mse", "scales are minmax or mse");
    return name == "mse" ? Scales::mse : Scales::minmax;
}

Out<uint8_t> pack_rows(const Rows& rows, int bits, int block, int threads,
                       const std::string& scales) {
    Shape shape = shape_of(rows, bits, block);
    auto packed = array<uint8_t>({packed_bytes(shape)});
    Scales method = scales_named(scales);
    ThreadPool& pool = pool_of(threads);
    nb::gil_scoped_release release;
    pack(shape, rows.data(), packed.data(), pool, method);
    return packed;
}

std::pair<Out<int8_t>, Out<float>> integers_of_rows(const Rows& rows, int bits, int block,
                                                    const std::string& scales, int threads) {
    Shape shape = shape_of(rows, bits, block);
    packed_bytes(shape);  // refuses what cannot be, before anything is divided by it
    auto values = array<int8_t>({rows.shape(0), rows.shape(1)});
    auto found = array<float>({rows.shape(0), rows.shape(1) / block});
    integers(shape, rows.data(), values.data(), found.data(), scales_named(scales),
             pool_of(threads));
    return {values, found};
}

std::pair<Out<int8_t>, Out<float>> gptq_of_rows(const Rows& rows, const Rows& u, int bits,
                                                int block, const std::string& scales, int threads) {
    Shape shape = shape_of(rows, bits, block);
    packed_bytes(shape);  // refuses what cannot be, before anything is divided by it
    expect(bits != 16, "bfloat16 has neither integers nor scales");
    expect(!form_of(bits).given(), "blocks with a minimum or of parts come as integers alone");
    expect(u.shape(0) == rows.shape(1) && u.shape(1) == rows.shape(1), "u is [k, k]");
    auto values = array<int8_t>({rows.shape(0), rows.shape(1)});
    auto found = array<float>({rows.shape(0), rows.shape(1) / block});
    Scales method = scales_named(scales);
    ThreadPool& pool = pool_of(threads);
    nb::gil_scoped_release release;
    gptq(shape, rows.data(), u.data(), method, values.data(), found.data(), pool);
    return {values, found};
}

Out<uint8_t> pack_values(const In<int8_t, nb::ndim<2>>& values, const Rows& scales, int bits,
                         int block, int threads) {
    Shape shape = shape_of(values, bits, block);
    auto packed = array<uint8_t>({packed_bytes(shape)});
    expect(int(scales.shape(0)) == shape.n &&
               int(scales.shape(1)) == shape.k / block * form_of(bits).numbers(),
           "scales are [n, k / block], with minimums [n, 2 k / block], of parts [n, all numbers]");
    pack(shape, values.data(), scales.data(), packed.data(), pool_of(threads));
    return packed;
}

// a view and the array that it looks at
struct Held {
    In<uint8_t, nb::ndim<1>> packed;
    Weights weights;
    Held(In<uint8_t, nb::ndim<1>> array, int n, int k, int bits, int block)
        : packed(std::move(array)),
          weights(view({n, k, bits, block}, packed.data(), packed.size())) {}
};

Out<float> unpack_rows(const Held& held) {
    auto rows = array<float>({size_t(held.weights.shape.n), size_t(held.weights.shape.k)});
    unpack(held.weights, rows.data());
    return rows;
}

Out<float> unpack_some(const Held& held, const In<int64_t, nb::ndim<1>>& picked) {
    const Shape& s = held.weights.shape;
    auto rows = array<float>({picked.shape(0), size_t(s.k)});
    for (size_t i = 0; i < picked.shape(0); i++) {
        const int64_t row = picked.data()[i];
        expect(row >= 0 && row < s.n, "there is no such row");
        unpack(held.weights, int(row), rows.data() + i * s.k);
    }
    return rows;
}

std::pair<Out<int8_t>, Out<float>> integers_of_packed(const Held& held) {
    const Shape& shape = held.weights.shape;
    auto values = array<int8_t>({size_t(shape.n), size_t(shape.k)});
    const int count = shape.k / shape.block * form_of(shape.bits).numbers();
    auto scales = array<float>({size_t(shape.n), size_t(count)});
    integers(held.weights, values.data(), scales.data());
    return {values, scales};
}

const Path* chosen(const std::string& name) {
    const Path* path = name.empty() ? best_path() : path_named(name);
    if (!path) throw std::invalid_argument("no path " + name + " on this machine");
    return path;
}

std::vector<Out<float>> run(std::vector<Product>& products, const Rows& x, int threads,
                            const std::string& path) {
    expect(!products.empty(), "no weights");
    const Shape& shape = products[0].weights.shape;
    expect(int(x.shape(1)) == shape.k, "x is [rows, k]");
    int rows = int(x.shape(0));
    std::vector<Out<float>> ys;
    for (Product& product : products) {
        ys.push_back(array<float>({size_t(rows), size_t(product.weights.shape.n)}));
        product.y = ys.back().data();
    }
    std::unique_ptr<uint64_t[]> scratch(new uint64_t[scratch_bytes(rows, shape) / 8 + 1]);
    const Path* how = chosen(path);
    ThreadPool& pool = pool_of(threads);
    nb::gil_scoped_release release;
    multiply(products.data(), int(products.size()), x.data(), rows, scratch.get(), pool, how);
    return ys;
}

Out<float> linear(const Rows& x, const Held& held, std::optional<In<float, nb::ndim<1>>> bias,
                  std::optional<Rows> residual, int threads, const std::string& path) {
    size_t n = held.weights.shape.n;
    expect(!bias || bias->shape(0) == n, "bias is [n]");
    expect(!residual || (residual->shape(0) == x.shape(0) && residual->shape(1) == n),
           "residual is [rows, n]");
    std::vector<Product> products = {{held.weights, nullptr, bias ? bias->data() : nullptr,
                                      residual ? residual->data() : nullptr}};
    return run(products, x, threads, path)[0];
}

std::vector<Out<float>> linears(const Rows& x, const std::vector<const Held*>& all, int threads,
                                const std::string& path) {
    std::vector<Product> products;
    products.reserve(all.size());
    for (const Held* held : all) products.push_back({held->weights, nullptr});
    return run(products, x, threads, path);
}

Out<float> gated(const Rows& x, const Held& gate, const Held& up, int threads,
                 const std::string& path) {
    std::vector<Product> products = {{up.weights, nullptr, nullptr, nullptr, &gate.weights}};
    return run(products, x, threads, path)[0];
}

// runs: [count, position] of each, and its pages: a row of the table
Out<float> attend_rows(KeyValueCache& cache, const Rows& q, const Rows& k, const Rows& v,
                       const In<int32_t, nb::shape<-1, 2>>& runs,
                       const In<int32_t, nb::ndim<2>>& tables, float scale, int window,
                       const Rows& cos, const Rows& sin, int threads) {
    size_t rows = q.shape(0), heads = q.shape(1) / cache.dim, kv = size_t(cache.heads) * cache.dim,
           half = cache.dim / 2, asked = 0;
    expect(heads * cache.dim == q.shape(1) && heads % cache.heads == 0,
           "q is [rows, heads * dim], heads a multiple of the cache's");
    expect(k.shape(0) == rows && v.shape(0) == rows && k.shape(1) == kv && v.shape(1) == kv,
           "k and v are [rows, cache heads * dim]");
    expect(runs.shape(0) == tables.shape(0), "every run has its pages");
    std::vector<Run> all;
    for (size_t i = 0; i < runs.shape(0); i++) {
        const int count = runs(i, 0), position = runs(i, 1);
        expect(count >= 1 && position >= 0 &&
                   size_t(position) + count <= tables.shape(1) * KeyValueCache::page_positions,
               "the rows do not fit the pages");
        expect(cos.shape(0) >= size_t(position) + count && cos.shape(1) == half &&
                   sin.shape(0) == cos.shape(0) && sin.shape(1) == half,
               "cos and sin are [positions, dim / 2]");
        all.push_back({count, position, tables.data() + i * tables.shape(1)});
        asked += count;
    }
    for (size_t i = 0; i < tables.size(); i++)
        expect(tables.data()[i] >= 0 && tables.data()[i] < cache.pages(), "there is no such page");
    expect(asked == rows, "the runs have as many rows as q");
    Attention attention = {cache, int(heads), scale, window, {cos.data(), sin.data()}};
    auto y = array<float>({rows, heads * cache.dim});
    ThreadPool& pool = pool_of(threads);
    auto scratch = array<float>({attention_scratch_floats(attention, threads)});
    attend(attention, all, {q.data(), q.shape(1)}, {k.data(), kv}, {v.data(), kv}, y.data(),
           scratch.data(), pool);
    return y;
}

}  // namespace

NB_MODULE(_kernels, m) {
    // layers live as long as their net, which may be until the process ends
    nb::set_leak_warnings(false);
    m.doc() = "QLinear of extensions/kernels/qlinear.h on numpy arrays";
    m.def("paths", path_names);
    m.def(
        "packed_bytes",
        [](int n, int k, int bits, int block) { return packed_bytes({n, k, bits, block}); }, "n"_a,
        "k"_a, "bits"_a, "block"_a);
    m.def("pack", pack_rows, "rows"_a, "bits"_a, "block"_a, "threads"_a = 1, "scales"_a = "minmax");
    m.def("integers", integers_of_rows, "rows"_a, "bits"_a, "block"_a, "scales"_a = "minmax",
          "threads"_a = 1);
    m.def("gptq", gptq_of_rows, "rows"_a, "u"_a, "bits"_a, "block"_a, "scales"_a = "mse",
          "threads"_a = 1);
    m.def("pack_values", pack_values, "values"_a, "scales"_a, "bits"_a, "block"_a, "threads"_a = 1);
    nb::class_<Held>(m, "Weights")
        .def(nb::init<In<uint8_t, nb::ndim<1>>, int, int, int, int>(), "packed"_a, "n"_a, "k"_a,
             "bits"_a, "block"_a)
        .def("unpack", unpack_rows)
        .def("unpack", unpack_some, "rows"_a, "Some of them.")
        .def("integers", integers_of_packed);
    m.def("linear", linear, "x"_a, "weights"_a, "bias"_a = nb::none(), "residual"_a = nb::none(),
          "threads"_a = 1, "path"_a = "");
    m.def("linears", linears, "x"_a, "weights"_a, "threads"_a = 1, "path"_a = "");
    m.def("gated", gated, "x"_a, "gate"_a, "up"_a, "threads"_a = 1, "path"_a = "");
    m.def(
        "read_through",
        [](const In<uint8_t>& data, int threads) {
            return read_through(data.data(), data.nbytes(), pool_of(threads));
        },
        "data"_a, "threads"_a);
    nb::class_<KeyValueCache>(m, "KeyValueCache")
        .def(
            "__init__",
            [](KeyValueCache* self, int heads, int dim, int pages, int stored) {
                expect(stored >= 0 && stored <= int(Stored::q8),
                       "stored is 0 for f32, 1 for bf16, 2 for q8");
                new (self) KeyValueCache(heads, dim, pages, Stored(stored));
            },
            "heads"_a, "dim"_a, "pages"_a, "stored"_a = 0);
    m.def("attend", attend_rows, "cache"_a, "q"_a, "k"_a, "v"_a, "runs"_a, "tables"_a, "scale"_a,
          "window"_a, "cos"_a, "sin"_a, "threads"_a = 1);
}
