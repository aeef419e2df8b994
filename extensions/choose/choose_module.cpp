// The Python module _choose: what a rank answers about its logits, as answers.py does in numpy.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>

#include "answers.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace mpsplit;

namespace {

using Numbers = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Logits = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// the Wish of answers.py
using Told = std::tuple<int64_t, int64_t, int64_t, double, int64_t, int64_t>;

nb::ndarray<nb::numpy, double> answer(Answers& answers, const Logits& logits, int64_t slot,
                                      const Told& told) {
    const auto [wanted, likely, changed, temperature, start, count] = told;
    const Wish wish = {wanted, likely, changed, temperature, start, count};
    const auto message = answers.answer({logits.data(), logits.shape(0)}, slot, wish);
    auto* data = new double[message.size()];
    std::copy(message.begin(), message.end(), data);
    return nb::ndarray<nb::numpy, double>(
        data, {message.size()},
        nb::capsule(data, [](void* p) noexcept { delete[] static_cast<double*>(p); }));
}

}  // namespace

NB_MODULE(_choose, m) {
    nb::set_leak_warnings(false);
    // NOLINTNEXTLINE(performance-unnecessary-value-param): the macro's
    nb::class_<Answers>(m, "Answers")
        .def(nb::init<int64_t>(), "first_row"_a)
        .def(
            "tilt",
            [](Answers& answers, int64_t slot, bool fresh, const Numbers& changes) {
                answers.tilt(slot, fresh, {changes.data(), changes.shape(0)});
            },
            "slot"_a, "fresh"_a, "changes"_a)
        .def(
            "mask",
            [](Answers& answers, int64_t slot, const Numbers& bits) {
                answers.mask(slot, {bits.data(), bits.shape(0)});
            },
            "slot"_a, "bits"_a)
        .def("answer", answer, "logits"_a, "slot"_a, "wish"_a);
}
