// Executor and default_threads().
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.h"
#include "runtime/cpus.h"
#include "runtime/executor.h"
#include "weight.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace cutwork;

namespace {

// Reads the fields of a dict; mistakes become std::invalid_argument.
class Fields {
 public:
  explicit Fields(nb::dict dict) : dict_(std::move(dict)) {}

  template <class T>
  T get(const char* name, const char* kind) {
    ++used_;
    if (!dict_.contains(name)) throw std::invalid_argument(std::string("has no '") + name + "'");
    return convert<T>(dict_[name], name, kind);
  }
  int64_t integer(const char* name) { return get<int64_t>(name, "an integer"); }
  float number(const char* name) { return static_cast<float>(get<double>(name, "a number")); }
  std::string word(const char* name) { return get<std::string>(name, "a string"); }
  std::vector<int64_t> integers(const char* name) { return get<std::vector<int64_t>>(name, "a list of integers"); }

  Activation activation(const char* name, bool may_be_none) {
    const std::string value = word(name);
    if (value == "none" && may_be_none) return Activation::none;
    if (value == "silu") return Activation::silu;
    if (value == "gelu") return Activation::gelu;
    if (value == "gelu_tanh") return Activation::gelu_tanh;
    if (value == "relu") return Activation::relu;
    throw std::invalid_argument("knows no activation '" + value + "'");
  }

  void no_others() const {
    if (dict_.size() != used_) throw std::invalid_argument("has a field that its kind does not know");
  }

 private:
  template <class T>
  static T convert(const nb::handle& value, const char* name, const char* kind) {
    T result{};
    if (!nb::try_cast<T>(value, result)) throw std::invalid_argument(std::string("'") + name + "' must be " + kind);
    return result;
  }

  nb::dict dict_;
  size_t used_ = 0;
};

Op parse_op(const std::string& kind, Fields& f) {
  if (kind == "embed") return Embed{f.integer("out"), f.integer("weight"), f.number("scale")};
  if (kind == "input") return Input{f.integer("out")};
  if (kind == "add_positions") return AddPositions{f.integer("x"), f.integer("out"), f.integer("weight")};
  if (kind == "neighbours") return Neighbours{f.integers("xs"), f.integers("shifts"), f.integer("out")};
  if (kind == "rms_norm")
    return RmsNorm{f.integer("x"), f.integer("out"), f.integer("weight"), f.number("eps"), f.integer("groups")};
  if (kind == "layer_norm")
    return LayerNorm{f.integer("x"), f.integer("out"), f.integer("weight"), f.integer("bias"), f.number("eps")};
  if (kind == "slice")
    return Slice{f.integer("x"), f.integer("out"), f.integer("pieces"), f.integer("stride"), f.integer("first")};
  if (kind == "add") return Add{f.integer("x"), f.integer("y"), f.integer("out")};
  if (kind == "clip") return Clip{f.integer("x"), f.integer("out"), f.number("limit")};
  if (kind == "linear")
    return Linear{f.integer("x"),       f.integers("outs"),    f.integers("weights"),
                  f.integers("biases"), f.integer("residual"), f.activation("activation", true)};
  if (kind == "rope")
    return Rope{f.integer("x"),        f.integer("out"),      f.integer("heads"),
                f.integer("head_dim"), f.integer("inv_freq"), f.number("scaling")};
  if (kind == "kv_append") return KvAppend{f.integer("k"), f.integer("v"), f.integer("cache")};
  if (kind == "attention")
    return Attention{f.integer("q"),        f.integer("out"),      f.integer("cache"), f.integer("heads"),
                     f.integer("kv_heads"), f.integer("head_dim"), f.number("scale"),  f.integer("window"),
                     f.integer("slopes"),   f.integer("bias")};
  if (kind == "self_attention")
    return SelfAttention{f.integer("q"),     f.integer("k"),        f.integer("v"),    f.integer("out"),
                         f.integer("heads"), f.integer("head_dim"), f.number("scale"), f.integer("bias")};
  if (kind == "cross_attention")
    return CrossAttention{f.integer("q"),        f.integer("out"),      f.integer("cache"), f.integer("heads"),
                          f.integer("kv_heads"), f.integer("head_dim"), f.number("scale")};
  if (kind == "gated")
    return Gated{f.integer("gate"), f.integer("up"), f.integer("out"), f.activation("activation", false)};
  if (kind == "gather_rows") return GatherRows{f.integer("x"), f.integer("out")};
  if (kind == "logits") return Logits{f.integer("x"), f.integer("weight"), f.integer("bias")};
  throw std::invalid_argument("no executor knows this kind");
}

std::vector<Op> parse_ops(const nb::sequence& ops) {
  std::vector<Op> parsed;
  for (nb::handle each : ops) {
    std::string kind = "?";
    try {
      if (!nb::isinstance<nb::dict>(each)) throw std::invalid_argument("is not a dict");
      Fields fields(nb::cast<nb::dict>(each));
      kind = fields.word("kind");
      Op op = parse_op(kind, fields);
      fields.no_others();
      parsed.push_back(std::move(op));
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument("op " + std::to_string(parsed.size()) + " (" + kind + "): " + error.what());
    }
  }
  return parsed;
}

std::vector<Buffer> parse_buffers(const nb::sequence& buffers) {
  std::vector<Buffer> parsed;
  for (nb::handle each : buffers) {
    std::tuple<int64_t, int64_t, std::string> span;
    if (!nb::try_cast(each, span) || (std::get<2>(span) != "T" && std::get<2>(span) != "R"))
      throw std::invalid_argument("buffer " + std::to_string(parsed.size()) +
                                  " is not (offset, width, rows) with rows \"T\" or \"R\"");
    parsed.push_back({std::get<0>(span), std::get<1>(span), std::get<2>(span) == "R"});
  }
  return parsed;
}

std::vector<std::vector<float>> parse_vectors(const nb::sequence& vectors) {
  std::vector<std::vector<float>> parsed;
  for (nb::handle each : vectors) {
    nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu> array;
    if (!nb::try_cast(each, array, false))
      throw std::invalid_argument("vector " + std::to_string(parsed.size()) +
                                  " is not a contiguous 1-dimensional float32 array");
    parsed.emplace_back(array.data(), array.data() + array.size());
  }
  return parsed;
}

DType cache_dtype(const std::string& name) {
  if (name == "f32") return DType::f32;
  if (name == "bf16") return DType::bf16;
  if (name == "i8") return DType::i8;
  throw std::invalid_argument("has dtype '" + name + "' instead of f32, bf16 or i8");
}

std::optional<CacheShape> parse_cache(const std::optional<nb::dict>& cache) {
  if (!cache) return std::nullopt;
  try {
    Fields f(*cache);
    const DType dtype = cache_dtype(f.word("dtype"));
    const CacheShape shape{f.integer("layers"),     f.integer("kv_heads"), f.integer("head_dim"),
                           f.integer("block_size"), f.integer("blocks"),   dtype};
    f.no_others();
    return shape;
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(std::string("the cache ") + error.what());
  }
}

// The executor and the Python weights whose memory it reads.
struct BoundExecutor {
  std::vector<nb::object> weights;
  std::unique_ptr<Executor> executor;
};

void construct(BoundExecutor* self, const nb::sequence& ops, const nb::sequence& buffers, const nb::sequence& weights,
               const nb::sequence& vectors, int threads, int64_t max_tokens, int64_t max_logits,
               const std::optional<nb::dict>& cache, const std::optional<std::string>& isa, const Costs* costs,
               const BoundExecutor* memory) {
  const Isa set = isa ? parse_isa(isa->c_str()) : chosen_isa();
  if (!isa_supported(set))
    throw std::invalid_argument("this processor does not support the instruction set '" + *isa + "'");
  if (costs && costs->isa() != set)
    throw std::invalid_argument(std::string("these costs were measured with ") + isa_name(costs->isa()) + ", not " +
                                isa_name(set));
  const std::shared_ptr<const KvCache> keys = memory ? memory->executor->cache() : nullptr;
  if (memory && !keys) throw std::invalid_argument("the executor given as memory has no cache");
  Plan plan{parse_ops(ops),
            parse_buffers(buffers),
            {},
            parse_vectors(vectors),
            parse_cache(cache),
            std::nullopt,
            max_tokens,
            max_logits,
            threads};
  if (keys) plan.memory = keys->shape();
  std::vector<nb::object> held;
  for (nb::handle each : weights) {
    if (!nb::isinstance<OwnedWeight>(each))
      throw std::invalid_argument("weight " + std::to_string(held.size()) + " is not a cutwork._native.Weight");
    held.push_back(nb::borrow(each));
    plan.weights.push_back(nb::cast<const OwnedWeight&>(each).view());
  }
  std::unique_ptr<Executor> executor;
  try {
    nb::gil_scoped_release release;
    executor = std::make_unique<Executor>(std::move(plan), costs ? *costs : Costs(set), keys);
  } catch (const OutOfMemory& error) {
    PyErr_SetString(PyExc_MemoryError, error.what());
    throw nb::python_error();
  }
  new (self) BoundExecutor{std::move(held), std::move(executor)};
}

nb::object own(std::unique_ptr<float[]> values, size_t dimensions, const size_t* shape) {
  float* raw = values.release();
  nb::capsule owner(raw, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, float>(raw, dimensions, shape, owner));
}

template <size_t dimensions>
using Indices = nb::ndarray<const int32_t, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;

using Features = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

nb::object step(BoundExecutor& self, const Indices<1>& tokens, const Indices<1>& positions, const Indices<1>& sequences,
                const Indices<2>& block_tables, const Indices<1>& logits_rows, bool profile,
                const std::optional<Indices<2>>& memory_tables, const std::optional<Indices<1>>& memory_lengths,
                const std::optional<Features>& features, const std::optional<Indices<2>>& watch) {
  if (positions.size() != tokens.size() || sequences.size() != tokens.size())
    throw std::invalid_argument("tokens, positions and sequences differ in length");
  if (memory_tables.has_value() != memory_lengths.has_value())
    throw std::invalid_argument("memory_tables and memory_lengths belong together");
  if (memory_tables &&
      (memory_tables->shape(0) != block_tables.shape(0) || memory_lengths->size() != memory_tables->shape(0)))
    throw std::invalid_argument("memory_tables and memory_lengths must have a row per row of block_tables");
  if (features && features->shape(0) != tokens.size())
    throw std::invalid_argument("features must have a row per token");
  if (watch && watch->shape(1) != 2) throw std::invalid_argument("watch must hold pairs of a layer and a head");
  const auto size = [](size_t count) { return static_cast<int64_t>(count); };
  const Batch batch{tokens.data(),
                    positions.data(),
                    sequences.data(),
                    size(tokens.size()),
                    block_tables.data(),
                    size(block_tables.shape(0)),
                    size(block_tables.shape(1)),
                    logits_rows.data(),
                    size(logits_rows.size()),
                    memory_tables ? memory_tables->data() : nullptr,
                    memory_lengths ? memory_lengths->data() : nullptr,
                    memory_tables ? size(memory_tables->shape(1)) : 0,
                    features ? features->data() : nullptr,
                    features ? size(features->shape(1)) : 0,
                    watch ? watch->data() : nullptr,
                    watch ? size(watch->shape(0)) : 0};
  const size_t shape[2] = {logits_rows.size(), static_cast<size_t>(self.executor->vocabulary())};
  std::unique_ptr<float[]> logits(new float[shape[0] * shape[1]]);
  {
    nb::gil_scoped_release release;
    self.executor->step(batch, profile, logits.get());
  }
  return own(std::move(logits), 2, shape);
}

nb::object watched(const BoundExecutor& self) {
  const Executor::Watched& found = self.executor->watched();
  const size_t shape[3] = {static_cast<size_t>(found.pairs), static_cast<size_t>(found.tokens),
                           static_cast<size_t>(found.keys)};
  std::unique_ptr<float[]> weights(new float[found.weights.size()]);
  std::copy(found.weights.begin(), found.weights.end(), weights.get());
  return own(std::move(weights), 3, shape);
}

void copy_blocks(BoundExecutor& self, const std::vector<std::pair<int64_t, int64_t>>& pairs) {
  nb::gil_scoped_release release;
  self.executor->copy_blocks(pairs);
}

}  // namespace

void bind_runtime(nb::module_& m) {
  m.def("default_threads", &default_threads, "root"_a = "/",
        "CPUs this process may use: its affinity mask, less if a control group grants it less time; at least 1. `root` "
        "is\n"
        "where /proc and /sys are looked for.");

  nb::class_<BoundExecutor>(m, "Executor",
                            "Runs a plan (docs/engine.md) on ragged batches. Owns its activations, KV cache and "
                            "threads; executors share\n"
                            "nothing but weights. Raises ValueError, naming the op, for a plan that could leave its "
                            "buffers, and MemoryError.")
      .def("__init__", construct, "ops"_a, "buffers"_a, "weights"_a, "vectors"_a, nb::kw_only(), "threads"_a,
           "max_tokens"_a, "max_logits"_a, "cache"_a.none(), "isa"_a = nb::none(), "costs"_a = nb::none(),
           "memory"_a = nb::none(),
           "ops: list of dict; buffers: list of (offset, width, \"T\" | \"R\"); weights: list of Weight; vectors: list "
           "of\n"
           "float32 [n] arrays (copied); threads includes the caller's; max_tokens and max_logits bound one step; "
           "cache:\n"
           "dict(layers, kv_heads, head_dim, block_size, blocks, dtype \"f32\" | \"bf16\" | \"i8\") or None, "
           "block_size a "
           "multiple of\n"
           "16; isa forces a lower instruction set; costs (Costs) choose the kernels, by default the built-in ones; "
           "memory:\n"
           "the executor whose cache cross_attention attends to.")
      .def("step", step, "tokens"_a.noconvert(), "positions"_a.noconvert(), "sequences"_a.noconvert(),
           "block_tables"_a.noconvert(), "logits_rows"_a.noconvert(), "profile"_a = false,
           "memory_tables"_a.noconvert() = nb::none(), "memory_lengths"_a.noconvert() = nb::none(),
           "features"_a.noconvert() = nb::none(), "watch"_a.noconvert() = nb::none(),
           "One forward pass: tokens, positions, sequences int32 [T], block_tables int32 [S, B], logits_rows int32 [R] "
           "->\n"
           "float32 [R, vocabulary]. A plan with cross_attention also takes memory_tables int32 [S, M], blocks of the "
           "memory,\n"
           "and memory_lengths int32 [S]. Releases the GIL. Raises ValueError before computing anything if an index is "
           "out "
           "of\n"
           "range, RuntimeError if another thread is in a step of this executor or the process was forked.")
      .def("copy_blocks", copy_blocks, "pairs"_a, "Copies blocks of the cache in every layer: (from, to), in order.")
      .def_prop_ro("threads", [](const BoundExecutor& e) { return e.executor->threads(); })
      .def_prop_ro(
          "arena_bytes", [](const BoundExecutor& e) { return e.executor->arena_bytes(); },
          "Bytes of activations and scratch.")
      .def_prop_ro("cache_bytes", [](const BoundExecutor& e) { return e.executor->cache_bytes(); })
      .def_prop_ro("watched", watched,
                   "float32 [P, T, keys]: what the watched heads of the last step gave to each entry of the memory.")
      .def_prop_ro(
          "profile", [](const BoundExecutor& e) { return e.executor->profile(); },
          "Seconds per op of the last step with profile=True.");
}
