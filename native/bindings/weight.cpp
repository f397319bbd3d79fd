// isa(), isas() and Weight.
#include "weights/weight.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/parallel.h"
#include "bindings/without_gil.h"
#include "cost/cost.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace cutwork;

const Isa& isa_or_chosen(const std::optional<std::string>& isa) {
  return isa ? find_available_isa(isa->c_str()) : chosen_isa();
}

namespace {

using AnyArray = nb::ndarray<nb::ro>;

void check_contiguous(const char* what, const AnyArray& array) {
  if (array.device_type() != nb::device::cpu::value)
    throw nb::value_error((std::string(what) + " must lie in the CPU's memory").c_str());
  if (array.size() == 0) return;
  int64_t step = 1;
  for (size_t i = array.ndim(); i-- > 0;) {
    if (array.shape(i) != 1 && array.stride(i) != step)
      throw nb::value_error((std::string(what) + " must be C-contiguous; use numpy.ascontiguousarray").c_str());
    step *= static_cast<int64_t>(array.shape(i));
  }
}

void check(const char* what, const AnyArray& array, nb::dlpack::dtype dtype, const char* dtype_text, size_t ndim) {
  if (array.dtype() != dtype || array.ndim() != ndim)
    throw nb::value_error(
        (std::string(what) + " must be a " + std::to_string(ndim) + "-dimensional array of " + dtype_text).c_str());
  check_contiguous(what, array);
}

// The array, kept alive by a reference that is dropped with the GIL held.
Array hold(const AnyArray& array) {
  std::shared_ptr<const void> owner(new AnyArray(array), [](const void* held) {
    nb::gil_scoped_acquire gil;
    delete static_cast<const AnyArray*>(held);
  });
  return {array.data(), static_cast<int64_t>(array.size()), owner};
}

DType value_dtype(const AnyArray& values) {
  if (values.dtype() == nb::dtype<float>()) return DType::f32;
  if (values.dtype() == nb::dtype<uint16_t>()) return DType::bf16;
  if (values.dtype() == nb::dtype<int8_t>()) return DType::i8;
  throw nb::value_error("values must be float32, uint16 (the bits of bfloat16) or int8");
}

std::optional<Array> hold_scale(const std::optional<AnyArray>& scale) {
  if (!scale) return std::nullopt;
  check("scale", *scale, nb::dtype<float>(), "float32", 1);
  return hold(*scale);
}

OwnedWeight make_dense(const AnyArray& values, const std::optional<AnyArray>& scale) {
  const DType dtype = value_dtype(values);
  check("values", values, values.dtype(), dtype_name(dtype), 2);
  const auto rows = static_cast<int64_t>(values.shape(0)), cols = static_cast<int64_t>(values.shape(1));
  Array held = hold(values);
  std::optional<Array> held_scale = hold_scale(scale);
  return without_gil([&] { return OwnedWeight::dense(dtype, rows, cols, std::move(held), std::move(held_scale)); });
}

Encoding masked_encoding(const std::string& name) {
  for (Encoding encoding : kEncodings)
    if (encoding != Encoding::dense && encoding != Encoding::slots && name == encoding_name(encoding)) return encoding;
  throw nb::value_error(("no encoding with a mask is called '" + name + "'").c_str());
}

OwnedWeight make_masked(const std::string& name, int64_t rows, int64_t cols, const AnyArray& values,
                        const AnyArray& mask, const AnyArray& offsets, const std::optional<AnyArray>& scale) {
  const Encoding encoding = masked_encoding(name);
  const DType dtype = value_dtype(values);
  check("values", values, values.dtype(), dtype_name(dtype), 1);
  if (encoding == Encoding::block1x4)
    check("mask", mask, nb::dtype<uint16_t>(), "uint16", mask.ndim());
  else
    check("mask", mask, nb::dtype<uint64_t>(), "uint64", mask.ndim());
  check("offsets", offsets, nb::dtype<uint64_t>(), "uint64", 1);
  Array held = hold(values), held_mask = hold(mask), held_offsets = hold(offsets);
  std::optional<Array> held_scale = hold_scale(scale);
  return without_gil([&] {
    return OwnedWeight::masked(encoding, dtype, rows, cols, std::move(held), std::move(held_mask),
                               std::move(held_offsets), std::move(held_scale));
  });
}

constexpr nb::dlpack::dtype kFloat16 = {static_cast<uint8_t>(nb::dlpack::dtype_code::Float), 16, 1};

ScaleType scale_type(const AnyArray& scale) {
  if (scale.dtype() == nb::dtype<float>()) return ScaleType::f32;
  if (scale.dtype() == nb::dtype<uint16_t>()) return ScaleType::bf16;
  if (scale.dtype() == kFloat16) return ScaleType::f16;
  throw nb::value_error("the scale of an int4 weight must be float32, uint16 (the bits of bfloat16) or float16");
}

OwnedWeight make_int4(int64_t rows, int64_t cols, const AnyArray& values, const AnyArray& scale, int64_t group,
                      const std::optional<AnyArray>& mask, const std::optional<AnyArray>& offsets) {
  check("values", values, nb::dtype<uint8_t>(), "uint8", values.ndim());
  const ScaleType type = scale_type(scale);
  check("scale", scale, scale.dtype(), "floats", scale.ndim());
  if (mask) check("mask", *mask, nb::dtype<uint64_t>(), "uint64", mask->ndim());
  if (offsets) check("offsets", *offsets, nb::dtype<uint64_t>(), "uint64", 1);
  const auto held = [](const std::optional<AnyArray>& array) {
    return array ? std::optional<Array>(hold(*array)) : std::nullopt;
  };
  Array held_values = hold(values), held_scale = hold(scale);
  std::optional<Array> held_mask = held(mask), held_offsets = held(offsets);
  return without_gil([&] {
    return OwnedWeight::int4(rows, cols, std::move(held_values), type, std::move(held_scale), group,
                             std::move(held_mask), std::move(held_offsets));
  });
}

OwnedWeight make_slots(int64_t rows, int64_t cols, const AnyArray& values, const AnyArray& scale, int64_t keep,
                       const std::optional<AnyArray>& steps, int64_t group) {
  check("values", values, nb::dtype<uint8_t>(), "uint8", values.ndim());
  if (steps) check("steps", *steps, nb::dtype<uint8_t>(), "uint8", 2);
  const DType dtype = group > 0 ? DType::i4 : DType::i8;
  if (dtype == DType::i8) check("scale", scale, nb::dtype<float>(), "float32", 1);
  const ScaleType type = scale_type(scale);
  check("scale", scale, scale.dtype(), "floats", scale.ndim());
  Array held = hold(values), held_scale = hold(scale);
  std::optional<Array> held_steps = steps ? std::optional<Array>(hold(*steps)) : std::nullopt;
  return without_gil([&] {
    return OwnedWeight::slots(dtype, rows, cols, std::move(held), keep, std::move(held_steps), std::move(held_scale),
                              type, group);
  });
}

std::optional<OwnedWeight> in_slots(const OwnedWeight& self) {
  return without_gil([&] { return self.in_slots(); });
}

std::optional<OwnedWeight> in_dense(const OwnedWeight& self) {
  return without_gil([&] { return self.in_dense(); });
}

AlignedBytes rearranged(const Weight& weight, const LinearKernels& kernels, Algorithm algorithm, const void* input,
                        int64_t tokens) {
  const auto [encoding, dtype] = std::make_pair(weight.encoding, weight.dtype);
  AlignedBytes bytes = aligned_bytes(kernels.rearranged_bytes(algorithm, encoding, dtype, tokens, weight.cols));
  kernels.rearrange_input(algorithm, encoding, dtype, input, tokens, weight.cols, 0, tokens, bytes.get());
  return bytes;
}

void multiply_rows(const Weight& weight, const LinearKernels& kernels, Algorithm algorithm, const float* x,
                   int64_t tokens, float* y, int threads) {
  constexpr int64_t kSharedPrepare = 1 << 18;  // elements from which threads help with the input
  const DType read = input_dtype(weight.encoding, weight.dtype);
  AlignedBytes input = aligned_bytes(kernels.input_bytes(read, tokens, weight.cols));
  in_parallel(tokens * weight.cols < kSharedPrepare ? 1 : threads, [&](int64_t i, int parts) {
    const int64_t begin = tokens * i / parts, end = tokens * (i + 1) / parts;
    kernels.prepare(read, x, weight.cols, tokens, weight.cols, begin, end, input.get());
  });
  if (skips_zeros(algorithm)) input = rearranged(weight, kernels, algorithm, input.get(), tokens);
  const int64_t tiles = tile_count(weight.rows);
  in_parallel(threads, [&](int64_t i, int parts) {
    const int64_t begin = tiles * i / parts * kRowTile;
    const int64_t end = std::min(tiles * (i + 1) / parts * kRowTile, weight.rows);
    if (begin >= end) return;
    AlignedBytes scratch = aligned_bytes(kernels.scratch_bytes(algorithm, weight, tokens));
    kernels.multiply(algorithm, weight, input.get(), tokens, begin, end, y, weight.rows, scratch.get());
  });
}

template <class T>
using Matrix = nb::ndarray<nb::numpy, T, nb::ndim<2>>;

template <class T>
Matrix<T> numpy_array(std::unique_ptr<T[]> data, int64_t rows, int64_t cols) {
  T* raw = data.release();
  nb::capsule owner(raw, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  const size_t shape[2] = {static_cast<size_t>(rows), static_cast<size_t>(cols)};
  return Matrix<T>(raw, 2, shape, owner);
}

std::vector<std::string> kernel_names(const OwnedWeight& self, const std::optional<std::string>& isa) {
  const LinearKernels& kernels = isa_or_chosen(isa).kernels.linear;
  std::vector<std::string> names;
  for (Algorithm algorithm : kAlgorithms)
    if (kernels.has(algorithm, self.view().encoding, self.view().dtype)) names.push_back(algorithm_name(algorithm));
  return names;
}

Matrix<float> matmul(const OwnedWeight& self, const AnyArray& x, int threads, const std::optional<std::string>& isa,
                     const std::optional<std::string>& kernel) {
  const Weight& weight = self.view();
  check("x", x, nb::dtype<float>(), "float32", 2);
  if (static_cast<int64_t>(x.shape(1)) != weight.cols)
    throw nb::value_error(
        ("x has " + std::to_string(x.shape(1)) + " columns, the weight " + std::to_string(weight.cols)).c_str());
  if (threads < 1 || threads > 1024) throw nb::value_error("threads must be between 1 and 1024");
  const Isa& set = isa_or_chosen(isa);
  const LinearKernels& kernels = set.kernels.linear;
  const auto tokens = static_cast<int64_t>(x.shape(0));
  const Algorithm algorithm = kernel ? parse_algorithm(kernel->c_str())
                                     : Costs(set).choose(shape_of(weight), std::max<int64_t>(tokens, 1), threads);
  if (!kernels.has(algorithm, weight.encoding, weight.dtype))
    throw nb::value_error((std::string(set.name) + " has no " + algorithm_name(algorithm) + " kernel for a " +
                           encoding_name(weight.encoding) + " " + dtype_name(weight.dtype) + " weight")
                              .c_str());
  std::unique_ptr<float[]> y(new float[static_cast<size_t>(std::max<int64_t>(tokens * weight.rows, 1))]);
  {
    nb::gil_scoped_release release;
    if (tokens > 0)
      multiply_rows(weight, kernels, algorithm, static_cast<const float*>(x.data()), tokens, y.get(), threads);
  }
  return numpy_array(std::move(y), tokens, weight.rows);
}

// The best of several runs on one thread, the input already prepared.
double time_kernel(const OwnedWeight& self, int64_t tokens, const std::string& kernel,
                   const std::optional<std::string>& isa, int repeats) {
  const Weight& weight = self.view();
  const LinearKernels& kernels = isa_or_chosen(isa).kernels.linear;
  const Algorithm algorithm = parse_algorithm(kernel.c_str());
  if (!kernels.has(algorithm, weight.encoding, weight.dtype)) throw nb::value_error("the weight has no such kernel");
  if (tokens < 1 || tokens > 4096 || repeats < 1) throw nb::value_error("tokens must be 1 to 4096, repeats positive");
  nb::gil_scoped_release release;
  const std::vector<float> x(static_cast<size_t>(tokens * weight.cols), 1.0f);
  std::vector<float> y(static_cast<size_t>(tokens * weight.rows));
  const DType read = input_dtype(weight.encoding, weight.dtype);
  AlignedBytes input = aligned_bytes(kernels.input_bytes(read, tokens, weight.cols));
  kernels.prepare(read, x.data(), weight.cols, tokens, weight.cols, 0, tokens, input.get());
  if (skips_zeros(algorithm)) input = rearranged(weight, kernels, algorithm, input.get(), tokens);
  AlignedBytes scratch = aligned_bytes(kernels.scratch_bytes(algorithm, weight, tokens));
  double best = 1e9;
  for (int i = 0; i <= repeats; ++i) {  // the first warms up
    const auto start = std::chrono::steady_clock::now();
    kernels.multiply(algorithm, weight, input.get(), tokens, 0, weight.rows, y.data(), weight.rows, scratch.get());
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    if (i > 0) best = std::min(best, took.count());
  }
  return best;
}

bool reorder(OwnedWeight& self) {
  return without_gil([&] { return self.reorder(); });
}

template <class T>
nb::ndarray<nb::numpy> dense_array(const Weight& weight) {
  std::unique_ptr<T[]> out(new T[static_cast<size_t>(weight.rows * weight.cols)]);
  {
    nb::gil_scoped_release release;
    write_dense(weight, out.get());
  }
  return nb::ndarray<nb::numpy>(numpy_array(std::move(out), weight.rows, weight.cols));
}

nb::ndarray<nb::numpy> to_dense(const OwnedWeight& self) {
  switch (self.view().dtype) {
    case DType::f32:
      return dense_array<float>(self.view());
    case DType::bf16:
      return dense_array<uint16_t>(self.view());
    case DType::i8:
    case DType::i4:
      break;
  }
  return dense_array<int8_t>(self.view());
}

}  // namespace

void bind_weight(nb::module_& m) {
  m.def("isa", [] { return chosen_isa().name; }, "The instruction set in use: one of isas().");
  m.def(
      "isas",
      [] {
        std::vector<std::string> names;
        for (const Isa* isa : available_isas()) names.emplace_back(isa->name);
        return names;
      },
      "The instruction sets that this process can run, the one to prefer first; \"scalar\" is the last.");

  nb::class_<OwnedWeight>(m, "Weight", "A validated weight [rows, cols] that reads its arrays in place.")
      .def_static("dense", make_dense, "values"_a.noconvert(), "scale"_a.noconvert() = nb::none(),
                  "From values [rows, cols]: float32, uint16 (bits of bfloat16) or int8 with a float32 scale [rows].")
      .def_static("masked", make_masked, "encoding"_a, "rows"_a, "cols"_a, "values"_a.noconvert(), "mask"_a.noconvert(),
                  "offsets"_a.noconvert(), "scale"_a.noconvert() = nb::none(),
                  R"(From the tensors of an encoding with a mask; `values` includes its 64 bytes of padding.

encoding: bitmask, block1x4 (four weights along a row per bit; the mask is uint16) or block4x1 (four rows per bit).)")
      .def_static("int4", make_int4, "rows"_a, "cols"_a, "values"_a.noconvert(), "scale"_a.noconvert(), "group"_a,
                  "mask"_a.noconvert() = nb::none(), "offsets"_a.noconvert() = nb::none(),
                  R"(From the tensors of an int4 weight with a scale per row and `group` columns.

With a mask and offsets it is a bitmask.)")
      .def_static("slots", make_slots, "rows"_a, "cols"_a, "values"_a.noconvert(), "scale"_a.noconvert(), "keep"_a = 0,
                  "steps"_a.noconvert() = nb::none(), "group"_a = 0,
                  R"(From the tensors of the slots encoding: int8, or int4 with a scale per row and `group` columns.

keep: 4, 8 or 12 of every 16 columns; or steps: uint8 [ceil(rows/16), ceil(cols/16)], how many each window has.)")
      .def("in_slots", in_slots, "A copy of an int8 or int4 weight in slots; None for others. Raises MemoryError.")
      .def("in_dense", in_dense,
           "A copy of an int8 or int4 bitmask with its zeros written out; None for other weights. Raises MemoryError.")
      .def_prop_ro("rows", [](const OwnedWeight& w) { return w.view().rows; })
      .def_prop_ro("cols", [](const OwnedWeight& w) { return w.view().cols; })
      .def_prop_ro("encoding", [](const OwnedWeight& w) { return encoding_name(w.view().encoding); })
      .def_prop_ro("dtype", [](const OwnedWeight& w) { return dtype_name(w.view().dtype); })
      .def_prop_ro("nonzeros", &OwnedWeight::nonzeros, nb::call_guard<nb::gil_scoped_release>(),
                   "How many values are not zero; dense weights are counted anew.")
      .def_prop_ro(
          "stored", [](const OwnedWeight& w) { return shape_of(w.view()).nonzeros; },
          "How many values kernels go through: all of a dense weight, of slots the empty ones too.")
      .def_prop_ro(
          "form", [](const OwnedWeight& w) { return form_name(shape_of(w.view()).form); },
          "Of slots what begins where its nonzeros do: all rows of `tiles`, `strips` of four, or `wide` ones of 32 "
          "columns.")
      .def_prop_ro("nbytes", &OwnedWeight::nbytes, "Bytes of all arrays.")
      .def_prop_ro("reordered_bytes", [](const OwnedWeight& w) { return shape_of(w.view()).reordered; })
      .def("reorder", reorder,
           R"(Works out once what the algorithm spmm_rows otherwise does in each call, for executors made afterwards.

Keeps it in `reordered_bytes`, about 2.5 bytes per nonzero. False, and nothing kept, where the instruction set in use has
no such kernel for this weight. Raises MemoryError.)")
      .def("kernels", kernel_names, "isa"_a = nb::none(),
           "The algorithms that can multiply this weight: gemv, gemm, spmm_tokens, spmm_rows, slots.")
      .def("matmul", matmul, "x"_a.noconvert(), "threads"_a = 1, "isa"_a = nb::none(), "kernel"_a = nb::none(),
           R"(x [tokens, cols] float32 times the transposed weight: [tokens, rows] float32.

isa: one of isas(); kernel: one of kernels(isa), by default the cheapest.)")
      .def("time", time_kernel, "tokens"_a, "kernel"_a, "isa"_a = nb::none(), "repeats"_a = 3,
           "Seconds that the kernel takes on one thread: the best of `repeats`.")
      .def("to_dense", to_dense, "The stored values with their zeros, [rows, cols]; codes (int8) for int8 and int4.");
}
