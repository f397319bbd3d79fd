// Costs: the constants by which kernels are chosen.
#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>

#include "bindings/bindings.h"
#include "cost/cost.h"
#include "weights/weight.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace cutwork;

namespace {

using Constants = std::tuple<double, double, double, double, double>;

bool usable(double constant) {
  return std::isfinite(constant) && constant >= 0;
}

Processor parse_processor(const std::string& name) {
  for (Processor processor : kProcessors)
    if (name == processor_name(processor)) return processor;
  throw std::invalid_argument("no costs are built in for the processor '" + name + "'; choose zen4, intel or other");
}

void construct(Costs* self, const std::map<std::string, Constants>& constants,
               const std::optional<std::pair<double, double>>& bandwidth, const std::optional<std::string>& isa,
               const std::optional<std::string>& processor) {
  Costs costs(isa ? find_isa(isa->c_str()) : chosen_isa(),  // of any set: they only predict
              processor ? parse_processor(*processor) : this_processor());
  for (const auto& [name, values] : constants) {
    const auto [position, nonzero, product, listed, output] = values;
    if (!usable(position) || !usable(nonzero) || !usable(product) || !usable(listed) || !usable(output))
      throw std::invalid_argument("the costs of '" + name + "' are negative or not finite");
    costs.at(name) = {.position = position, .nonzero = nonzero, .product = product, .listed = listed, .output = output};
  }
  if (bandwidth) {
    if (!usable(bandwidth->first) || !(bandwidth->first > 0) || !usable(bandwidth->second) ||
        bandwidth->second < bandwidth->first)
      throw std::invalid_argument("the bandwidths are not positive and rising with the threads");
    costs.one_thread = bandwidth->first;
    costs.all_threads = bandwidth->second;
  }
  new (self) Costs(costs);
}

std::map<std::string, Constants> constants_of(const Costs& self) {
  std::map<std::string, Constants> constants;
  for (const auto& [name, cost] : self.all())
    if (cost.product >= 0) constants[name] = {cost.position, cost.nonzero, cost.product, cost.listed, cost.output};
  return constants;
}

Shape parse_shape(const std::string& encoding, const std::string& dtype, int64_t rows, int64_t cols, int64_t nonzeros,
                  int64_t reordered, SlotForm form = SlotForm::tiles) {
  for (Encoding e : kEncodings)
    for (DType d : kDTypes)
      if (encoding == encoding_name(e) && dtype == dtype_name(d))
        return {.encoding = e,
                .dtype = d,
                .rows = rows,
                .cols = cols,
                .nonzeros = nonzeros,
                .reordered = reordered,
                .form = form};
  throw std::invalid_argument("no kernel multiplies " + encoding + " " + dtype);
}

SlotForm parse_form(const std::string& name) {
  for (SlotForm form : kSlotForms)
    if (name == form_name(form)) return form;
  throw std::invalid_argument("no slots are in " + name);
}

}  // namespace

void bind_costs(nb::module_& m) {
  nb::class_<Costs>(m, "Costs", "What linears cost on this machine (docs/engine.md), and which kernel is cheapest.")
      .def("__init__", construct, "constants"_a = std::map<std::string, Constants>(), "bandwidth"_a = nb::none(),
           "isa"_a = nb::none(), "processor"_a = nb::none(),
           R"(The built-in costs of the instruction set, replaced where given.

constants: by names like "gemv bitmask i8", picoseconds of one thread per (position, nonzero, product, listed, output);
bandwidth: bytes per second of (one, all) threads. Raises ValueError for an unknown kernel or a constant that is negative
or not finite. processor: "zen4", "intel" or "other", the one at hand where none is named.)")
      .def_prop_ro("constants", constants_of)
      .def_prop_ro("bandwidth", [](const Costs& c) { return std::make_pair(c.one_thread, c.all_threads); })
      .def_prop_ro("isa", [](const Costs& c) { return c.isa().name; })
      .def(
          "work",
          [](const Costs& self, const std::string& kernel, const std::string& encoding, const std::string& dtype,
             int64_t rows, int64_t cols, int64_t nonzeros, int64_t tokens, const std::string& form) {
            const Work work = self.work(parse_shape(encoding, dtype, rows, cols, nonzeros, 0, parse_form(form)),
                                        parse_algorithm(kernel.c_str()), tokens);
            return Constants(work.positions, work.nonzeros, work.products, work.listed, work.outputs);
          },
          "kernel"_a, "encoding"_a, "dtype"_a, "rows"_a, "cols"_a, "nonzeros"_a, "tokens"_a, "form"_a = "tiles",
          "What the kernel's constants multiply, in their order.")
      .def(
          "seconds",
          [](const Costs& self, const std::string& kernel, const std::string& encoding, const std::string& dtype,
             int64_t rows, int64_t cols, int64_t nonzeros, int64_t tokens, int threads, int64_t reordered,
             const std::string& form) {
            return self.seconds(parse_shape(encoding, dtype, rows, cols, nonzeros, reordered, parse_form(form)),
                                parse_algorithm(kernel.c_str()), tokens, std::max(threads, 1));
          },
          "kernel"_a, "encoding"_a, "dtype"_a, "rows"_a, "cols"_a, "nonzeros"_a, "tokens"_a, "threads"_a = 1,
          "reordered"_a = 0, "form"_a = "tiles",
          "Predicted; infinite for a kernel nobody measured. reordered: the weight's reordered_bytes; form: its form.")
      .def(
          "choose",
          [](const Costs& self, const std::string& encoding, const std::string& dtype, int64_t rows, int64_t cols,
             int64_t nonzeros, int64_t tokens, int64_t reordered, int threads) {
            const Shape shape = parse_shape(encoding, dtype, rows, cols, nonzeros, reordered);
            return algorithm_name(self.choose(shape, tokens, std::max(threads, 1)));
          },
          "encoding"_a, "dtype"_a, "rows"_a, "cols"_a, "nonzeros"_a, "tokens"_a, "reordered"_a = 0, "threads"_a = 1,
          "The cheapest kernel; threads count where the weight has been reordered.");
}
