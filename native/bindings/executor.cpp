// Executor, op_fields() and default_threads().
#include "runtime/executor.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/without_gil.h"
#include "runtime/cache.h"
#include "runtime/cpus.h"
#include "weights/weight.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace cutwork;

namespace {

constexpr std::pair<Activation, const char*> kActivations[] = {{Activation::none, "none"},
                                                               {Activation::silu, "silu"},
                                                               {Activation::gelu, "gelu"},
                                                               {Activation::gelu_tanh, "gelu_tanh"},
                                                               {Activation::relu, "relu"}};

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
  std::string word(const char* name) { return get<std::string>(name, "a string"); }

  // A field of an op or of the cache, by the type of its member.
  void read(const char* name, Role, int64_t& value) { value = get<int64_t>(name, "an integer"); }
  void read(const char* name, Role, float& value) { value = static_cast<float>(get<double>(name, "a number")); }
  void read(const char* name, Role, std::vector<int64_t>& values) {
    values = get<std::vector<int64_t>>(name, "a list of integers");
  }
  void read(const char* name, Role role, Activation& value) {
    const std::string found = word(name);
    for (const auto& [activation, text] : kActivations)
      if (found == text && (activation != Activation::none || role == Role::optional_activation)) {
        value = activation;
        return;
      }
    throw std::invalid_argument("knows no activation '" + found + "'");
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

template <class Op>
Op parse_fields(Fields& fields) {
  Op op{};
  for_each_field<Op>([&](const auto& field) { fields.read(field.name, field.role, op.*field.member); });
  return op;
}

// Calls use(Op{}) for every kind of op.
template <class... Ops, class Use>
void for_each_kind(const std::variant<Ops...>*, const Use& use) {
  (use(Ops{}), ...);
}

AnyOp parse_op(const std::string& kind, Fields& fields) {
  std::optional<AnyOp> parsed;
  for_each_kind(static_cast<const AnyOp*>(nullptr), [&](const auto& op) {
    if (kind == op.kName) parsed = parse_fields<std::decay_t<decltype(op)>>(fields);
  });
  if (!parsed) throw std::invalid_argument("no executor knows this kind");
  return *std::move(parsed);
}

const char* role_name(Role role) {
  switch (role) {
    case Role::buffer_in:
      return "buffer_in";
    case Role::optional_buffer_in:
      return "optional_buffer_in";
    case Role::buffers_in:
      return "buffers_in";
    case Role::buffer_out:
      return "buffer_out";
    case Role::buffers_out:
      return "buffers_out";
    case Role::weight:
      return "weight";
    case Role::weights:
      return "weights";
    case Role::vector:
      return "vector";
    case Role::optional_vector:
      return "optional_vector";
    case Role::optional_vectors:
      return "optional_vectors";
    case Role::integer:
      return "integer";
    case Role::integers:
      return "integers";
    case Role::number:
      return "number";
    case Role::activation:
      return "activation";
    case Role::optional_activation:
      break;
  }
  return "optional_activation";
}

using NamedRoles = std::vector<std::pair<std::string, std::string>>;

std::map<std::string, NamedRoles> op_fields() {
  std::map<std::string, NamedRoles> kinds;
  for_each_kind(static_cast<const AnyOp*>(nullptr), [&](const auto& op) {
    NamedRoles& fields = kinds[op.kName];
    for_each_field<std::decay_t<decltype(op)>>(
        [&](const auto& field) { fields.emplace_back(field.name, role_name(field.role)); });
  });
  return kinds;
}

std::vector<AnyOp> parse_ops(const nb::sequence& ops) {
  std::vector<AnyOp> parsed;
  for (nb::handle each : ops) {
    std::string kind = "?";
    try {
      if (!nb::isinstance<nb::dict>(each)) throw std::invalid_argument("is not a dict");
      Fields fields(nb::cast<nb::dict>(each));
      kind = fields.word("kind");
      AnyOp op = parse_op(kind, fields);
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
    Fields fields(*cache);
    CacheShape shape{};
    const auto read = [&](const char* name, int64_t& size) { fields.read(name, Role::integer, size); };
    shape.dtype = cache_dtype(fields.word("dtype"));
    read("layers", shape.layers);
    read("kv_heads", shape.kv_heads);
    read("head_dim", shape.head_dim);
    read("block_size", shape.block_size);
    read("blocks", shape.blocks);
    fields.no_others();
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
  const Isa& set = isa_or_chosen(isa);
  if (costs && &costs->isa() != &set)
    throw std::invalid_argument(std::string("these costs were measured with ") + costs->isa().name + ", not " +
                                set.name);
  const std::shared_ptr<const KvCache> keys = memory ? memory->executor->cache() : nullptr;
  if (memory && !keys) throw std::invalid_argument("the executor given as memory has no cache");
  Plan plan{.ops = parse_ops(ops),
            .buffers = parse_buffers(buffers),
            .weights = {},
            .vectors = parse_vectors(vectors),
            .cache = parse_cache(cache),
            .memory = std::nullopt,
            .max_tokens = max_tokens,
            .max_logits = max_logits,
            .threads = threads};
  if (keys) plan.memory = keys->shape();
  std::vector<nb::object> held;
  for (nb::handle each : weights) {
    if (!nb::isinstance<OwnedWeight>(each))
      throw std::invalid_argument("weight " + std::to_string(held.size()) + " is not a cutwork._native.Weight");
    held.push_back(nb::borrow(each));
    plan.weights.push_back(nb::cast<const OwnedWeight&>(each).view());
  }
  std::unique_ptr<Executor> executor =
      without_gil([&] { return std::make_unique<Executor>(std::move(plan), costs ? *costs : Costs(set), keys); });
  new (self) BoundExecutor{std::move(held), std::move(executor)};
}

template <size_t dimensions>
using Floats = nb::ndarray<nb::numpy, float, nb::ndim<dimensions>>;

template <size_t dimensions>
Floats<dimensions> own(std::unique_ptr<float[]> values, const size_t (&shape)[dimensions]) {
  float* raw = values.release();
  nb::capsule owner(raw, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  return Floats<dimensions>(raw, dimensions, shape, owner);
}

template <size_t dimensions>
using Indices = nb::ndarray<const int32_t, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;

using Features = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

Floats<2> step(BoundExecutor& self, const Indices<1>& tokens, const Indices<1>& positions, const Indices<1>& sequences,
               const Indices<2>& block_tables, const Indices<1>& logits_rows, bool profile,
               const std::optional<Indices<2>>& memory_tables, const std::optional<Indices<1>>& memory_lengths,
               const std::optional<Features>& features, const std::optional<Indices<2>>& attention_of,
               const std::optional<Indices<1>>& adapters) {
  if (positions.size() != tokens.size() || sequences.size() != tokens.size())
    throw std::invalid_argument("tokens, positions and sequences differ in length");
  if (memory_tables.has_value() != memory_lengths.has_value())
    throw std::invalid_argument("memory_tables and memory_lengths belong together");
  if (memory_tables &&
      (memory_tables->shape(0) != block_tables.shape(0) || memory_lengths->size() != memory_tables->shape(0)))
    throw std::invalid_argument("memory_tables and memory_lengths must have a row per row of block_tables");
  if (features && features->shape(0) != tokens.size())
    throw std::invalid_argument("features must have a row per token");
  if (attention_of && attention_of->shape(1) != 2)
    throw std::invalid_argument("attention_of must hold pairs of a layer and a head");
  if (adapters && adapters->size() != block_tables.shape(0))
    throw std::invalid_argument("adapters must have an entry per row of block_tables");
  const auto size = [](size_t count) { return static_cast<int64_t>(count); };
  const Batch batch{.tokens = tokens.data(),
                    .positions = positions.data(),
                    .sequences = sequences.data(),
                    .token_count = size(tokens.size()),
                    .tables = block_tables.data(),
                    .table_count = size(block_tables.shape(0)),
                    .table_length = size(block_tables.shape(1)),
                    .wanted = logits_rows.data(),
                    .wanted_count = size(logits_rows.size()),
                    .memory_tables = memory_tables ? memory_tables->data() : nullptr,
                    .memory_lengths = memory_lengths ? memory_lengths->data() : nullptr,
                    .memory_table_length = memory_tables ? size(memory_tables->shape(1)) : 0,
                    .features = features ? features->data() : nullptr,
                    .feature_width = features ? size(features->shape(1)) : 0,
                    .attention_of = attention_of ? attention_of->data() : nullptr,
                    .attention_of_count = attention_of ? size(attention_of->shape(0)) : 0,
                    .adapters = adapters ? adapters->data() : nullptr};
  const size_t shape[2] = {logits_rows.size(), static_cast<size_t>(self.executor->result_width())};
  std::unique_ptr<float[]> logits(new float[shape[0] * shape[1]]);
  without_gil([&] { self.executor->step(batch, profile, logits.get()); });
  return own(std::move(logits), shape);
}

nb::object attention_weights(const BoundExecutor& self) {
  const Executor::AttentionWeights found = self.executor->attention_weights();
  const size_t shape[3] = {static_cast<size_t>(found.pairs), static_cast<size_t>(found.tokens),
                           static_cast<size_t>(found.keys)};
  std::unique_ptr<float[]> weights(new float[found.weights.size()]);
  std::copy(found.weights.begin(), found.weights.end(), weights.get());
  return nb::cast(own(std::move(weights), shape));  // a property would tie the array to the executor
}

void copy_blocks(BoundExecutor& self, const std::vector<std::pair<int64_t, int64_t>>& pairs) {
  without_gil([&] { self.executor->copy_blocks(pairs); });
}

}  // namespace

void bind_executor(nb::module_& m) {
  m.def("default_threads", &default_threads, "root"_a = "/",
        R"(CPUs this process may use: its affinity mask, less if a control group grants it less time; at least 1.

root: where /proc and /sys are looked for.)");

  m.def(
      "cache_bytes", [](const nb::dict& cache) { return KvCache::bytes_of(*parse_cache(cache)); }, "cache"_a,
      "What an executor's cache takes, given as for Executor.");

  m.def("op_fields", op_fields,
        R"(The fields (name, role) of every kind of op that an executor runs, by kind, in their order.

Roles: "buffer_in", "buffer_out", "weight" and "vector" name one by its index, "buffers_in", "buffers_out" and "weights"
several; those that begin with "optional_" may be -1, for none ("optional_buffer_in", "optional_vector", each of
"optional_vectors"), or "none" ("optional_activation"). "integer" and "integers", "number" and "activation" ("silu",
"gelu", "gelu_tanh", "relu") hold what they say.)");

  nb::class_<BoundExecutor>(m, "Executor",
                            R"(Runs a plan on ragged batches.

Owns its activations, KV cache and threads; executors share nothing but weights. Raises ValueError, naming the op, for a
plan that could leave its buffers, and MemoryError.)")
      .def(
          "__init__", construct, "ops"_a, "buffers"_a, "weights"_a, "vectors"_a, nb::kw_only(), "threads"_a,
          "max_tokens"_a, "max_logits"_a, "cache"_a.none(), "isa"_a = nb::none(), "costs"_a = nb::none(),
          "memory"_a = nb::none(),
          R"(ops: list of dict (op_fields and "kind"); buffers: list of (offset, width, "T" | "R"); weights: list of Weight.

vectors: list of float32 [n] arrays (copied); threads: includes the caller's; max_tokens, max_logits: bounds of one step;
cache: dict(layers, kv_heads, head_dim, block_size, blocks, dtype "f32" | "bf16" | "i8") or None, block_size a multiple of
16, no layers: only the dtype matters, to self_attention; isa: one of isas(); costs: choose the kernels, by default the built-in ones; memory: the executor whose cache
cross_attention attends to, which must not step or copy blocks meanwhile.)")
      .def("step", step, "tokens"_a.noconvert(), "positions"_a.noconvert(), "sequences"_a.noconvert(),
           "block_tables"_a.noconvert(), "logits_rows"_a.noconvert(), "profile"_a = false,
           "memory_tables"_a.noconvert() = nb::none(), "memory_lengths"_a.noconvert() = nb::none(),
           "features"_a.noconvert() = nb::none(), "attention_of"_a.noconvert() = nb::none(),
           "adapters"_a.noconvert() = nb::none(),
           R"(One forward pass; returns logits float32 [R, vocabulary], or the rows of an output.

tokens, positions, sequences: int32 [T]; block_tables: int32 [S, B]; logits_rows: int32 [R]. For a plan with
cross_attention memory_tables: int32 [S, M], blocks of the memory, and memory_lengths: int32 [S]. features: float32
[T, width] for a plan with an input. attention_of: int32 [P, 2], layers and heads of cross attention for
attention_weights. adapters: int32 [S], the adapter of each sequence's low_rank ops, -1 for none. Releases the GIL.
Raises ValueError before computing anything if an index is out of range, RuntimeError if another thread is in a step of
this executor or the process was forked.)")
      .def("copy_blocks", copy_blocks, "pairs"_a, "Copies blocks of the cache in every layer: (from, to), in order.")
      .def_prop_ro("threads", [](const BoundExecutor& e) { return e.executor->threads(); })
      .def_prop_ro(
          "arena_bytes", [](const BoundExecutor& e) { return e.executor->arena_bytes(); },
          "Bytes of activations and scratch.")
      .def_prop_ro("cache_bytes", [](const BoundExecutor& e) { return e.executor->cache_bytes(); })
      .def_prop_ro(
          "attention_weights", attention_weights, nb::rv_policy::automatic,
          "float32 [P, T, keys]: what the heads of the last step's attention_of gave to each entry of the memory.")
      .def_prop_ro(
          "profile", [](const BoundExecutor& e) { return e.executor->profile(); },
          "Seconds per op of the last step with profile=True.");
}
