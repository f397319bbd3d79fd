// A forward pass as the executor holds it: docs/engine.md gives the meaning of every op and field.
#pragma once

#include <cstdint>
#include <optional>
#include <tuple>
#include <variant>
#include <vector>

#include "kernels/elementwise/elementwise.h"
#include "weights/layout.h"

namespace cutwork {

// What a field of an op names, by its index, or holds.
enum class Role : uint8_t {
  buffer_in,
  optional_buffer_in,  // -1 for none
  buffers_in,
  buffer_out,
  buffers_out,
  weight,
  weights,
  vector,
  optional_vector,   // -1 for none
  optional_vectors,  // each -1 for none
  integer,
  integers,
  number,
  activation,
  optional_activation,  // may be "none"
};

template <class Op, class Member>
struct Field {
  const char* name;
  Role role;
  Member Op::* member;
};

template <class Op, class Member>
constexpr Field<Op, Member> field(const char* name, Role role, Member Op::* member) {
  return {name, role, member};
}

// Calls visit(field) for each field of an op's struct in order.
template <class Op, class Visit>
constexpr void for_each_field(const Visit& visit) {
  std::apply([&](const auto&... each) { (visit(each), ...); }, Op::fields());
}

constexpr int64_t kMaxAdapters = 1024;  // of a plan

// The ops: what each one's fields are is declared here only. What is read from a dict, what verify() checks of every op
// and what Python is told (op_fields) follow.
struct Embed {
  static constexpr const char* kName = "embed";
  int64_t out, weight;
  float scale;

  static constexpr auto fields() {
    return std::tuple(field("out", Role::buffer_out, &Embed::out), field("weight", Role::weight, &Embed::weight),
                      field("scale", Role::number, &Embed::scale));
  }
};
struct Input {
  static constexpr const char* kName = "input";
  int64_t out;

  static constexpr auto fields() { return std::tuple(field("out", Role::buffer_out, &Input::out)); }
};
struct AddPositions {
  static constexpr const char* kName = "add_positions";
  int64_t x, out, weight;

  static constexpr auto fields() {
    return std::tuple(field("x", Role::buffer_in, &AddPositions::x), field("out", Role::buffer_out, &AddPositions::out),
                      field("weight", Role::weight, &AddPositions::weight));
  }
};
struct Unfold {
  static constexpr const char* kName = "unfold";
  std::vector<int64_t> xs, shifts;
  int64_t out;

  static constexpr auto fields() {
    return std::tuple(field("xs", Role::buffers_in, &Unfold::xs), field("shifts", Role::integers, &Unfold::shifts),
                      field("out", Role::buffer_out, &Unfold::out));
  }
};
struct RmsNorm {
  static constexpr const char* kName = "rms_norm";
  int64_t x, out, weight;
  float eps;
  int64_t groups;

  static constexpr auto fields() {
    return std::tuple(field("x", Role::buffer_in, &RmsNorm::x), field("out", Role::buffer_out, &RmsNorm::out),
                      field("weight", Role::vector, &RmsNorm::weight), field("eps", Role::number, &RmsNorm::eps),
                      field("groups", Role::integer, &RmsNorm::groups));
  }
};
struct LayerNorm {
  static constexpr const char* kName = "layer_norm";
  int64_t x, out, weight, bias;
  float eps;

  static constexpr auto fields() {
    return std::tuple(field("x", Role::buffer_in, &LayerNorm::x), field("out", Role::buffer_out, &LayerNorm::out),
                      field("weight", Role::vector, &LayerNorm::weight),
                      field("bias", Role::optional_vector, &LayerNorm::bias),
                      field("eps", Role::number, &LayerNorm::eps));
  }
};
struct Slice {
  static constexpr const char* kName = "slice";
  int64_t x, out, pieces, stride, first;

  static constexpr auto fields() {
    return std::tuple(field("x", Role::buffer_in, &Slice::x), field("out", Role::buffer_out, &Slice::out),
                      field("pieces", Role::integer, &Slice::pieces), field("stride", Role::integer, &Slice::stride),
                      field("first", Role::integer, &Slice::first));
  }
};
struct Add {
  static constexpr const char* kName = "add";
  int64_t x, y, out;

  static constexpr auto fields() {
    return std::tuple(field("x", Role::buffer_in, &Add::x), field("y", Role::buffer_in, &Add::y),
                      field("out", Role::buffer_out, &Add::out));
  }
};
struct Clip {
  static constexpr const char* kName = "clip";
  int64_t x, out;
  float limit;

  static constexpr auto fields() {
    return std::tuple(field("x", Role::buffer_in, &Clip::x), field("out", Role::buffer_out, &Clip::out),
                      field("limit", Role::number, &Clip::limit));
  }
};
struct Linear {
  static constexpr const char* kName = "linear";
  int64_t x;
  std::vector<int64_t> outs, weights, biases;
  int64_t residual;
  Activation activation;

  static constexpr auto fields() {
    return std::tuple(field("x", Role::buffer_in, &Linear::x), field("outs", Role::buffers_out, &Linear::outs),
                      field("weights", Role::weights, &Linear::weights),
                      field("biases", Role::optional_vectors, &Linear::biases),
                      field("residual", Role::optional_buffer_in, &Linear::residual),
                      field("activation", Role::optional_activation, &Linear::activation));
  }
};
struct LowRank {
  static constexpr const char* kName = "low_rank";
  int64_t x, y, low, down, up, adapter;

  static constexpr auto fields() {
    return std::tuple(field("x", Role::buffer_in, &LowRank::x), field("y", Role::buffer_in, &LowRank::y),
                      field("low", Role::buffer_out, &LowRank::low), field("down", Role::weight, &LowRank::down),
                      field("up", Role::vector, &LowRank::up), field("adapter", Role::integer, &LowRank::adapter));
  }
};
struct Rope {
  static constexpr const char* kName = "rope";
  int64_t x, out, heads, head_dim, inv_freq;
  float scaling;

  static constexpr auto fields() {
    return std::tuple(field("x", Role::buffer_in, &Rope::x), field("out", Role::buffer_out, &Rope::out),
                      field("heads", Role::integer, &Rope::heads), field("head_dim", Role::integer, &Rope::head_dim),
                      field("inv_freq", Role::vector, &Rope::inv_freq), field("scaling", Role::number, &Rope::scaling));
  }
};
struct KvAppend {
  static constexpr const char* kName = "kv_append";
  int64_t k, v, cache;

  static constexpr auto fields() {
    return std::tuple(field("k", Role::buffer_in, &KvAppend::k), field("v", Role::buffer_in, &KvAppend::v),
                      field("cache", Role::integer, &KvAppend::cache));
  }
};
struct Attention {
  static constexpr const char* kName = "attention";
  int64_t q, out, cache, heads, kv_heads, head_dim;
  float scale, cap;
  int64_t window, slopes, bias;

  static constexpr auto fields() {
    return std::tuple(
        field("q", Role::buffer_in, &Attention::q), field("out", Role::buffer_out, &Attention::out),
        field("cache", Role::integer, &Attention::cache), field("heads", Role::integer, &Attention::heads),
        field("kv_heads", Role::integer, &Attention::kv_heads), field("head_dim", Role::integer, &Attention::head_dim),
        field("scale", Role::number, &Attention::scale), field("cap", Role::number, &Attention::cap),
        field("window", Role::integer, &Attention::window), field("slopes", Role::optional_vector, &Attention::slopes),
        field("bias", Role::optional_vector, &Attention::bias));
  }
};
struct SelfAttention {
  static constexpr const char* kName = "self_attention";
  int64_t q, k, v, out, heads, head_dim;
  float scale, cap;
  int64_t bias;

  static constexpr auto fields() {
    return std::tuple(
        field("q", Role::buffer_in, &SelfAttention::q), field("k", Role::buffer_in, &SelfAttention::k),
        field("v", Role::buffer_in, &SelfAttention::v), field("out", Role::buffer_out, &SelfAttention::out),
        field("heads", Role::integer, &SelfAttention::heads),
        field("head_dim", Role::integer, &SelfAttention::head_dim), field("scale", Role::number, &SelfAttention::scale),
        field("cap", Role::number, &SelfAttention::cap), field("bias", Role::optional_vector, &SelfAttention::bias));
  }
};
struct CrossAttention {
  static constexpr const char* kName = "cross_attention";
  int64_t q, out, cache, heads, kv_heads, head_dim;
  float scale, cap;

  static constexpr auto fields() {
    return std::tuple(
        field("q", Role::buffer_in, &CrossAttention::q), field("out", Role::buffer_out, &CrossAttention::out),
        field("cache", Role::integer, &CrossAttention::cache), field("heads", Role::integer, &CrossAttention::heads),
        field("kv_heads", Role::integer, &CrossAttention::kv_heads),
        field("head_dim", Role::integer, &CrossAttention::head_dim),
        field("scale", Role::number, &CrossAttention::scale), field("cap", Role::number, &CrossAttention::cap));
  }
};
struct Gated {
  static constexpr const char* kName = "gated";
  int64_t gate, up, out;
  Activation activation;

  static constexpr auto fields() {
    return std::tuple(field("gate", Role::buffer_in, &Gated::gate), field("up", Role::buffer_in, &Gated::up),
                      field("out", Role::buffer_out, &Gated::out),
                      field("activation", Role::activation, &Gated::activation));
  }
};
struct GatherRows {
  static constexpr const char* kName = "gather_rows";
  int64_t x, out;

  static constexpr auto fields() {
    return std::tuple(field("x", Role::buffer_in, &GatherRows::x), field("out", Role::buffer_out, &GatherRows::out));
  }
};
struct Logits {
  static constexpr const char* kName = "logits";
  int64_t x, weight, bias;
  float cap;

  static constexpr auto fields() {
    return std::tuple(field("x", Role::buffer_in, &Logits::x), field("weight", Role::weight, &Logits::weight),
                      field("bias", Role::optional_vector, &Logits::bias), field("cap", Role::number, &Logits::cap));
  }
};
struct Output {
  static constexpr const char* kName = "output";
  int64_t x;

  static constexpr auto fields() { return std::tuple(field("x", Role::buffer_in, &Output::x)); }
};
using AnyOp = std::variant<Embed, Input, AddPositions, Unfold, RmsNorm, LayerNorm, Slice, Add, Clip, Linear, LowRank,
                           Rope, KvAppend, Attention, SelfAttention, CrossAttention, Gated, GatherRows, Logits, Output>;

// A matrix of f32 with a row per token of the step (or per row whose logits are wanted) at `offset` floats per row.
struct Buffer {
  int64_t offset, width;
  bool wanted_rows;
};

// Without layers nothing is remembered, and only the dtype matters: how precise self_attention must be.
struct CacheShape {
  int64_t layers, kv_heads, head_dim, block_size, blocks;
  DType dtype;
};

struct Plan {
  std::vector<AnyOp> ops;
  std::vector<Buffer> buffers;
  std::vector<Weight> weights;
  std::vector<std::vector<float>> vectors;
  std::optional<CacheShape> cache;
  std::optional<CacheShape> memory;  // another executor's cache, to which cross attention attends
  int64_t max_tokens, max_logits;
  int threads;
};

// Proves that no op can leave its buffers, weights, vectors or cache, or read what is not there, whatever a step
// brings. Throws std::invalid_argument: "op 7 (linear): ...".
void verify(const Plan& plan);

// Of its shape alone; with no layers only the dtype matters.
void verify(const CacheShape& cache);

}  // namespace cutwork
