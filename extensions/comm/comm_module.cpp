// The Python module _comm: numpy arrays in and out, written in place, without the GIL while they
// travel.
//
// Arrays must lie in memory in one piece. CommError is one of mpsplit's errors for people; wrong
// arguments are ValueErrors.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>

#include "comm.h"
#include "meet_on_host.h"
#include "null_comm.h"
#ifdef MPSPLIT_MPI
#include "mpi_link.h"
#endif
#ifdef MPSPLIT_GLOO
#include "gloo_link.h"
#endif

namespace nb = nanobind;
using namespace mpsplit;

using Array = nb::ndarray<nb::device::cpu>;
using Input = nb::ndarray<nb::ro, nb::device::cpu>;

namespace {

template <typename A>
void check_in_one_piece(const A& x) {
    int64_t expected = 1;
    for (size_t i = x.ndim(); i-- > 0;) {
        if (x.size() > 0 && x.shape(i) > 1 && x.stride(i) != expected)
            throw std::invalid_argument("the array does not lie in memory in one piece (stride " +
                                        std::to_string(x.stride(i)) + " on axis " +
                                        std::to_string(i) + ", not " + std::to_string(expected) +
                                        "); pass np.ascontiguousarray of it");
        expected *= int64_t(x.shape(i));
    }
}

Type type_of(const Array& x, const std::string& named) {
    const auto dtype = x.dtype();
    const auto is = [&](nb::dlpack::dtype_code code, int bits) {
        return dtype.code == uint8_t(code) && dtype.bits == bits && dtype.lanes == 1;
    };
    using Code = nb::dlpack::dtype_code;
    if (is(Code::Bfloat, 16) || (named == "bf16" && is(Code::UInt, 16))) return Type::bf16;
    if (is(Code::Float, 32)) return Type::f32;
    if (is(Code::Float, 16)) return Type::f16;
    if (is(Code::Int, 8)) return Type::i8;
    if (is(Code::Int, 32)) return Type::i32;
    if (is(Code::Int, 64)) return Type::i64;
    throw std::invalid_argument(
        "all_reduce adds float32, float16, int8, int32, int64, and bfloat16 as uint16 with "
        "type='bf16'; this array is none of them");
}

void look_for_ctrl_c() {
    const nb::gil_scoped_acquire held;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
}

nb::ndarray<nb::numpy, int64_t> passed(const Comm& c) {
    constexpr size_t words = sizeof(Passed) / sizeof(int64_t);
    const size_t ranks = c.link() ? c.link()->passed.size() : size_t(c.size());
    auto* data = new int64_t[ranks * words]();
    if (c.link()) std::memcpy(data, c.link()->passed.data(), ranks * sizeof(Passed));
    return nb::ndarray<nb::numpy, int64_t>(
        data, {ranks, words},
        nb::capsule(data, [](void* p) noexcept { delete[] static_cast<int64_t*>(p); }));
}

using Free = nb::call_guard<nb::gil_scoped_release>;

void bind_transports(nb::module_& m) {
    m.def("null", null_comm, nb::arg("rank") = 0, nb::arg("size") = 1, "No peers, right shapes.");
    m.def("host", this_host, "Tells this machine from others.");
#ifdef MPSPLIT_MPI
    m.def(
        "mpi", [](bool shared, double timeout) { return world_over(mpi_link(timeout), shared); },
        nb::arg("shared") = true, nb::arg("timeout") = 30.0, Free(),
        "All ranks of mpirun; shared: through memory between ranks of one host.");
#endif
#ifdef MPSPLIT_GLOO
    m.def(
        "gloo",
        [](int rank, int size, const std::string& store, const std::string& interface,
           double timeout, bool shared) {
            return world_over(gloo_link(rank, size, store, interface, timeout), shared);
        },
        nb::arg("rank"), nb::arg("size"), nb::arg("store"), nb::arg("interface") = "",
        nb::arg("timeout") = 30.0, nb::arg("shared") = true, Free(),
        "Ranks that meet in the folder `store`.");
    m.def(
        "gloo_over",
        [](Comm& meeting, const std::string& interface, double timeout, bool shared) {
            return world_over(gloo_link_over(meeting, interface, timeout), shared);
        },
        nb::arg("meeting"), nb::arg("interface") = "", nb::arg("timeout") = 30.0,
        nb::arg("shared") = true, Free(),
        "The same ranks as `meeting`, which carries their addresses.");
#endif
}

void bind_comm(nb::module_& m) {
    nb::class_<Comm>(m, "Comm")
        .def_prop_ro("rank", &Comm::rank)
        .def_prop_ro("size", &Comm::size)
        .def_prop_ro("transport", &Comm::name)
        .def_prop_ro("bytes", [](const Comm& c) { return c.traffic().bytes; })
        .def_prop_ro("calls", [](const Comm& c) { return c.traffic().calls; })
        .def_prop_ro("seconds", [](const Comm& c) { return c.traffic().seconds; })
        .def_prop_rw(
            "resting", [](const Comm& c) { return c.link() && c.link()->resting; },
            [](Comm& c, bool resting) {
                if (c.link()) c.link()->resting = resting;
            },
            "What comes next may take as long as it likes, and is no wait that counts.")
        .def(
            "waits_for",
            [](const Comm& c) {
                std::vector<int> told;
                for (int r = 0; c.link() && r < c.link()->size; ++r)
                    told.push_back(c.link()->waits_for(r));
                return told;
            },
            "By rank of the world: for whom it has waited for long, as it told; -1 for nobody. "
            "From any thread.")
        .def(
            "last_words",
            [](Comm& c, const std::string& why) {
                if (c.link()) c.link()->tell_last_words(why);
            },
            "By a rank that ends for a reason of its own: what the others' waits throw.")
        .def("passed", passed,
             "int64 [ranks of the world, 3 + lengths]: what went to each rank so far, and how long "
             "it was waited for (link_counts.h).")
        .def(
            "all_reduce",
            [](Comm& c, const Array& x, const std::string& type) {
                check_in_one_piece(x);
                const Type element = type_of(x, type);
                const nb::gil_scoped_release released;
                c.all_reduce(x.data(), x.size(), element);
            },
            nb::arg("x"), nb::arg("type") = "")
        .def(
            "all_gather",
            [](Comm& c, const Input& block, const Array& out) {
                check_in_one_piece(block), check_in_one_piece(out);
                const size_t bytes = block.nbytes();
                if (out.nbytes() != bytes * c.size())
                    throw std::invalid_argument("out has " + std::to_string(out.nbytes()) +
                                                " bytes; " + std::to_string(c.size()) +
                                                " blocks of " + std::to_string(bytes) + " need " +
                                                std::to_string(bytes * c.size()));
                const nb::gil_scoped_release released;
                c.all_gather(block.data(), bytes, out.data());
            },
            nb::arg("block"), nb::arg("out"), "out holds the blocks one after the other.")
        .def(
            "broadcast",
            [](Comm& c, const Array& x, int root) {
                check_in_one_piece(x);
                const nb::gil_scoped_release released;
                c.broadcast(x.data(), x.nbytes(), root);
            },
            nb::arg("x"), nb::arg("root"))
        .def(
            "send",
            [](Comm& c, const Input& x, int peer) {
                check_in_one_piece(x);
                const nb::gil_scoped_release released;
                c.send(x.data(), x.nbytes(), peer);
            },
            nb::arg("x"), nb::arg("peer"))
        .def(
            "recv",
            [](Comm& c, const Array& x, int peer) {
                check_in_one_piece(x);
                const nb::gil_scoped_release released;
                c.recv(x.data(), x.nbytes(), peer);
            },
            nb::arg("x"), nb::arg("peer"))
        .def(
            "exchange",
            [](Comm& c, const Input& x, int to, const Array& y, int from) {
                check_in_one_piece(x), check_in_one_piece(y);
                const nb::gil_scoped_release released;
                c.exchange(x.data(), x.nbytes(), to, y.data(), y.nbytes(), from);
            },
            nb::arg("x"), nb::arg("to"), nb::arg("y"), nb::arg("source"),
            "Sends x and receives y at once.")
        .def("barrier", &Comm::barrier, Free())
        .def("group", &Comm::group, nb::arg("ranks"), "None on ranks that are not in it.");
}

}  // namespace

NB_MODULE(_comm, m) {
    nb::set_leak_warnings(false);  // the world lives until the process ends
    const nb::exception<Error> error(m, "CommError",
                                     nb::module_::import_("mpsplit.errors").attr("RunError"));
    while_waiting = look_for_ctrl_c;
    bind_transports(m);
    bind_comm(m);
}
