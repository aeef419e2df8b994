// The Python module _choose: what a rank answers about its logits, as answers.py does in numpy.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "answers.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace mpsplit;

namespace {

using Numbers = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Logits = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// the Wish of answers.py
using Told = std::tuple<int64_t, int64_t, int64_t, double, int64_t, int64_t>;

// the Draw of answers.py
using Settings = std::tuple<double, int64_t, double, double, int64_t, double>;

Wish wish_of(const Told& told) {
    const auto [wanted, likely, changed, temperature, start, count] = told;
    return {wanted, likely, changed, temperature, start, count};
}

nb::ndarray<nb::numpy, double> array_of(std::span<const double> message) {
    auto* data = new double[message.size()];
    std::copy(message.begin(), message.end(), data);
    return nb::ndarray<nb::numpy, double>(
        data, {message.size()},
        nb::capsule(data, [](void* p) noexcept { delete[] static_cast<double*>(p); }));
}

nb::ndarray<nb::numpy, double> answer(Answers& answers, const Logits& logits, int64_t slot,
                                      const Told& wish) {
    return array_of(answers.answer({logits.data(), logits.shape(0)}, slot, wish_of(wish)));
}

using AskedFor = std::tuple<Logits, int64_t, Told, Settings>;

std::vector<nb::ndarray<nb::numpy, double>> draws(Answers& answers,
                                                  const std::vector<AskedFor>& asked) {
    std::vector<Asked> questions;
    for (const auto& [logits, slot, wish, settings] : asked) {
        const auto [temperature, top_k, top_p, min_p, min_keep, random] = settings;
        questions.push_back({{logits.data(), logits.shape(0)},
                             slot,
                             wish_of(wish),
                             {temperature, top_k, top_p, min_p, min_keep, random}});
    }
    std::vector<nb::ndarray<nb::numpy, double>> messages;
    for (const auto& each : answers.draws(questions)) messages.push_back(array_of(each));
    return messages;
}

}  // namespace

NB_MODULE(_choose, m) {
    nb::set_leak_warnings(false);
    // NOLINTNEXTLINE(performance-unnecessary-value-param): the macro's
    nb::class_<Answers>(m, "Answers")
        .def(nb::init<int64_t, int>(), "first_row"_a, "threads"_a = 1)
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
        .def("answer", answer, "logits"_a, "slot"_a, "wish"_a)
        .def("draws", draws, "questions"_a);
}
