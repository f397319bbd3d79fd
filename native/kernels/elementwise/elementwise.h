// Operations on rows of activations that are not linear layers.
#pragma once

#include <cstdint>

#include "weights/layout.h"

namespace cutwork {

enum class Activation : uint8_t { none, silu, gelu, gelu_tanh, relu };

// What an instruction set offers. Every function handles one token, reads and writes f32, and its result does not
// depend on how callers share the tokens. `out` may be the very input, but may not overlap it otherwise.
struct ElementwiseKernels {
  // out = x / sqrt(mean(x^2) + eps) * weight, over each of `groups` equal parts of `width`; weight has width / groups.
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t width, int64_t groups, float* out);
  // out = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias, without the bias if it is null.
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, int64_t width, float* out);
  // Rotates the pairs (i, i + half) of each head by the angle whose cosine and sine are given; copies the dimensions
  // beyond 2 * half.
  void (*rope)(const float* x, const float* cosine, const float* sine, int64_t heads, int64_t head_dim, int64_t half,
               float* out);
  // out = activation(gate) * up. Activations are within 1e-6 of their value in relative terms, where its factor
  // e^x is a normal float, and 0 where that would be smaller; gelu, a polynomial, within 4e-7 in absolute terms.
  void (*gated)(Activation activation, const float* gate, const float* up, int64_t width, float* out);
  // out = x brought into [-limit, limit].
  void (*clip)(const float* x, float limit, int64_t width, float* out);
  // y = cap tanh(y / cap) (Gemma 2, arXiv 2408.00118).
  void (*soft_cap)(float cap, int64_t width, float* y);
  // y = activation(y + bias) + residual, without what is null.
  void (*finish)(Activation activation, const float* bias, const float* residual, int64_t width, float* y);
  // y += the sum of factors[r] * row r of `count` rows, which begin `stride` apart.
  void (*add_rows)(const float* factors, const float* rows, int64_t count, int64_t stride, int64_t width, float* y);
  // out [cols] = scale * row `row` of the weight.
  void (*embed)(const Weight& weight, int64_t row, float scale, float* out);
  // log(sum(e^x)). x may be -inf in places, but not in all.
  double (*log_sum_exp)(const float* x, int64_t width);
  // The places of the `count` largest values, at most `width`, the largest first; of equal ones the first first. No
  // value may be NaN, or places are wrong.
  void (*largest)(const float* x, int64_t width, int64_t count, int64_t* places);
};

}  // namespace cutwork
