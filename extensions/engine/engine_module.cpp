// The Python module _engine: an engine on the communicator of _comm. A step runs without the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <vector>

#include "engine.h"
#include "failure.h"
#include "null_comm.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace mpsplit;

namespace {

using Tokens = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <typename T>
nb::ndarray<nb::numpy, T> array(std::initializer_list<size_t> shape) {
    size_t count = 1;
    for (size_t size : shape) count *= size;
    T* data = new T[count];
    return nb::ndarray<nb::numpy, T>(
        data, shape, nb::capsule(data, [](void* p) noexcept { delete[] static_cast<T*>(p); }));
}

using Parts = nb::ndarray<const int64_t, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;

nb::ndarray<nb::numpy, float> step(Engine& engine, const Tokens& tokens, const Parts& parts,
                                   bool every_row) {
    std::vector<Engine::Part> of;
    of.reserve(parts.shape(0));
    for (size_t i = 0; i < parts.shape(0); i++)
        of.push_back({int(parts(i, 0)), int(parts(i, 1)), int(parts(i, 2))});
    Engine::Logits logits;
    {
        const nb::gil_scoped_release released;
        logits = engine.step({tokens.data(), tokens.shape(0)}, of, every_row);
    }
    auto result = array<float>({size_t(logits.rows), size_t(logits.columns)});
    std::copy_n(logits.data, size_t(logits.rows) * logits.columns, result.data());
    return result;
}

nb::ndarray<nb::numpy, float> blob(Engine& engine, const std::string& name) {
    const ncnn::Mat& mat = engine.blob(name);
    if (mat.dims > 2) throw Failure("blob " + name + " has more than rows and columns");
    auto result = array<float>({size_t(mat.h), size_t(mat.w)});
    std::copy_n(static_cast<const float*>(mat), size_t(mat.h) * mat.w, result.data());
    return result;
}

// [heads, positions, dim] of one attention
template <void (KeyValueCache::*read)(const int32_t*, int, int, float*) const>
nb::ndarray<nb::numpy, float> remembered(Engine& engine, size_t attention, int slot,
                                         int positions) {
    if (attention >= engine.caches().size())
        throw Failure("there is no attention " + std::to_string(attention) + " of " +
                      std::to_string(engine.caches().size()));
    const auto pages = engine.pages(slot, positions);
    const KeyValueCache& cache = *engine.caches()[attention];
    const size_t each = size_t(positions) * cache.dim;
    auto result = array<float>({size_t(cache.heads), size_t(positions), size_t(cache.dim)});
    for (int head = 0; head < cache.heads; head++)
        (cache.*read)(pages.data(), head, positions, result.data() + head * each);
    return result;
}

}  // namespace

// NOLINTNEXTLINE(performance-unnecessary-value-param): the macro's
NB_MODULE(_engine, m) {
    nb::set_leak_warnings(false);
    const nb::exception<Failure> error(m, "EngineError",
                                       nb::module_::import_("mpsplit.errors").attr("PackageError"));
    m.def(
        "keeping",
        [] {
            const Keeping found = keeping();
            return nb::make_tuple(found.copies, found.why);
        },
        "Whether weights are copied where their files have no large pages, and why "
        "(mapped_files.h)");
    nb::class_<Engine>(m, "Engine")
        .def(
            "__init__",
            [](Engine* self, const std::string& folder, std::shared_ptr<Comm> world, int threads) {
                const nb::gil_scoped_release released;
                new (self) Engine(folder, std::move(world), threads);
            },
            "folder"_a, "world"_a, "threads"_a)
        .def("reserve", &Engine::reserve, "pages"_a, "stored"_a,
             "stored: 0 for f32, 1 for bf16, 2 for q8")
        .def(
            "place",
            [](Engine& engine, int slot, int first, const Tokens& pages) {
                engine.place(slot, first, {pages.data(), pages.shape(0)});
            },
            "slot"_a, "first"_a, "pages"_a)
        .def(
            "forget",
            [](Engine& engine, const Tokens& pages) {
                engine.forget({pages.data(), pages.shape(0)});
            },
            "pages"_a, "Gives their memory back to the system.")
        .def("step", step, "tokens"_a, "parts"_a, "every_row"_a = false,
             "parts: [slot, position, count] of each")
        .def(
            "save",
            [](Engine& engine, int slot, int first, int last, const std::string& identity,
               const std::string& path) { engine.save(slot, {identity, first, last}, path); },
            "slot"_a, "first"_a, "last"_a, "identity"_a, "path"_a,
            "Positions of a slot, to a new file, beside the steps")
        .def(
            "saved",
            [](Engine& engine) {
                const Saved saved = engine.saved();
                return nb::make_tuple(int(saved.outcome), saved.detail);
            },
            "How that went: an Outcome, and bytes or an errno.")
        .def(
            "load",
            [](Engine& engine, int slot, int first, int last, int until,
               const std::string& identity, const std::string& path) {
                const nb::gil_scoped_release released;
                return int(engine.load(slot, {identity, first, last}, until, path));
            },
            "slot"_a, "first"_a, "last"_a, "until"_a, "identity"_a, "path"_a,
            "And from it, up to a position: an Outcome")
        .def("sweep", &Engine::sweep, "folder"_a, "saves"_a,
             "Of this rank's files in a folder, only those of these saves stay.")
        .def("keep", &Engine::keep, "blob"_a, "The blob stays after a step.")
        .def("blob", blob, "name"_a,
             "What a blob that is kept holds since the last step, [rows, columns].")
        .def("keys", remembered<&KeyValueCache::read_keys>, "attention"_a, "slot"_a, "positions"_a,
             "Turned, [heads, positions, dim].")
        .def("values", remembered<&KeyValueCache::read_values>, "attention"_a, "slot"_a,
             "positions"_a, "[heads, positions, dim]")
        .def_prop_ro("bytes_sent", &Engine::bytes_sent)
        .def(
            "memory",
            [](const Engine& engine) {
                const Graph& graph = engine.graph();
                return nb::make_tuple(graph.arena_bytes(), graph.stray_bytes(),
                                      graph.workspace_bytes());
            },
            "Bytes so far: of the arena, of blobs outside of it, of layers for themselves.")
        .def_prop_ro("seconds_between_ranks", &Engine::seconds_between_ranks)
        .def(
            "shared_work",
            [](const Engine& engine) {
                const ThreadPool::Times& times = engine.shared_work();
                auto result = array<int64_t>({3});
                result.data()[0] = times.shared_ns, result.data()[1] = times.waited_ns,
                result.data()[2] = times.alone_ns;
                return result;
            },
            "ns so far: of several threads, of it waiting, and of one thread in the place of "
            "several.")
        .def(
            "spent",
            [](const Engine& engine) {
                auto result = array<int64_t>({size_t(kinds)});
                std::copy_n(engine.spent().ns, kinds, result.data());
                return result;
            },
            "ns so far, by the kind of layer (layer_times.h)");
}
