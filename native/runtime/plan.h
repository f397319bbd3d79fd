// A forward pass as the executor holds it: docs/engine.md gives the meaning of every op and field.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "kernels/elementwise.h"
#include "kernels/linear.h"

namespace cutwork {

// Buffers, weights and vectors are given by their index; -1 stands for none.
struct Embed {
  int64_t out, weight;
  float scale;
};
struct Input {
  int64_t out;
};
struct AddPositions {
  int64_t x, out, weight;
};
struct Neighbours {
  std::vector<int64_t> xs, shifts;
  int64_t out;
};
struct RmsNorm {
  int64_t x, out, weight;
  float eps;
  int64_t groups;
};
struct LayerNorm {
  int64_t x, out, weight, bias;
  float eps;
};
struct Slice {
  int64_t x, out, pieces, stride, first;
};
struct Add {
  int64_t x, y, out;
};
struct Clip {
  int64_t x, out;
  float limit;
};
struct Linear {
  int64_t x;
  std::vector<int64_t> outs, weights, biases;
  int64_t residual;
  Activation activation;
};
struct Rope {
  int64_t x, out, heads, head_dim, inv_freq;
  float scaling;
};
struct KvAppend {
  int64_t k, v, cache;
};
struct Attention {
  int64_t q, out, cache, heads, kv_heads, head_dim;
  float scale;
  int64_t window, slopes, bias;
};
struct SelfAttention {
  int64_t q, k, v, out, heads, head_dim;
  float scale;
  int64_t bias;
};
struct CrossAttention {
  int64_t q, out, cache, heads, kv_heads, head_dim;
  float scale;
};
struct Gated {
  int64_t gate, up, out;
  Activation activation;
};
struct GatherRows {
  int64_t x, out;
};
struct Logits {
  int64_t x, weight, bias;
};
using Op = std::variant<Embed, Input, AddPositions, Neighbours, RmsNorm, LayerNorm, Slice, Add, Clip, Linear, Rope,
                        KvAppend, Attention, SelfAttention, CrossAttention, Gated, GatherRows, Logits>;

const char* kind_name(const Op& op);

// A matrix of f32 with a row per token of the step (or per row whose logits are wanted) at `offset` floats per row.
struct Buffer {
  int64_t offset, width;
  bool wanted_rows;
};

struct CacheShape {
  int64_t layers, kv_heads, head_dim, block_size, blocks;
  DType dtype;
};

struct Plan {
  std::vector<Op> ops;
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

}  // namespace cutwork
