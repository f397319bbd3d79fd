// What is done with logits.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>

#include "bindings/bindings.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace cutwork;

namespace {

using Row = nb::ndarray<nb::numpy, const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

double log_sum_exp(const Row& x, const std::optional<std::string>& isa) {
  if (x.size() == 0) throw nb::value_error("x must not be empty");
  return isa_or_chosen(isa).kernels.elementwise.log_sum_exp(x.data(), static_cast<int64_t>(x.size()));
}

nb::ndarray<nb::numpy, int64_t, nb::ndim<1>> largest(const Row& values, int64_t count,
                                                     const std::optional<std::string>& isa) {
  if (count < 1) throw nb::value_error("count must be at least 1");
  count = std::min(count, static_cast<int64_t>(values.size()));
  auto places = std::make_unique<int64_t[]>(static_cast<size_t>(count));
  if (count > 0)
    isa_or_chosen(isa).kernels.elementwise.largest(values.data(), static_cast<int64_t>(values.size()), count,
                                                   places.get());
  nb::capsule owner(places.get(), [](void* p) noexcept { delete[] static_cast<int64_t*>(p); });
  int64_t* raw = places.release();
  return nb::ndarray<nb::numpy, int64_t, nb::ndim<1>>(raw, {static_cast<size_t>(count)}, owner);
}

}  // namespace

void bind_logits(nb::module_& m) {
  m.def("log_sum_exp", &log_sum_exp, "x"_a.noconvert(), "isa"_a = nb::none(),
        "The logarithm of the sum of e to the power of each of float32 [V].");
  m.def("largest", &largest, "values"_a.noconvert(), "count"_a, "isa"_a = nb::none(),
        R"(Places int64 of the `count` largest of values float32 [V], the largest first; of equal ones the first first.

Where a value is NaN they may be others.)");
}
