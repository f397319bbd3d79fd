// What each kind of op does, but for attention.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "runtime/executor.h"

namespace cutwork {
namespace {

constexpr int64_t kPiece = 256;  // columns of a low_rank's vector that stay near for all tokens

}  // namespace

template <class Job>
void Executor::per_token(int64_t count, int64_t work, const Job& job) {
  pool_.for_ranges(count, std::max<int64_t>(1, kSharedFloats / work), [&](int64_t begin, int64_t end, int) {
    for (int64_t token = begin; token < end; ++token) job(token);
  });
}

int64_t Executor::rows(int64_t buffer) const {
  return plan_.buffers[static_cast<size_t>(buffer)].wanted_rows ? batch_.wanted_count : batch_.token_count;
}

// Offsets count floats per row, so the buffers of a small step lie close together.
float* Executor::data(int64_t buffer) const {
  const int64_t most_rows = std::max(batch_.token_count, batch_.wanted_count);
  return reinterpret_cast<float*>(arena_.data()) + plan_.buffers[static_cast<size_t>(buffer)].offset * most_rows;
}

void Executor::compute_angles() {
  for (const Angles& each : angles_) {
    const float* inv_freq = vector(each.inv_freq);
    per_token(batch_.token_count, 32 * each.half, [&](int64_t t) {
      const auto position = static_cast<float>(batch_.positions[t]);
      for (int64_t i = 0; i < each.half; ++i) {
        // The angle is rounded to f32 as in the models' own training code; its cosine is not rounded twice.
        const double angle = position * inv_freq[i];
        each.cosines[t * each.half + i] = static_cast<float>(std::cos(angle) * each.scaling);
        each.sines[t * each.half + i] = static_cast<float>(std::sin(angle) * each.scaling);
      }
    });
  }
}

void Executor::run(const Embed& op, const Prepared&) {
  const Weight& weight = plan_.weights[static_cast<size_t>(op.weight)];
  per_token(batch_.token_count, weight.cols,
            [&](int64_t t) { kernels_.elementwise.embed(weight, batch_.tokens[t], op.scale, data(op.out, t)); });
}

void Executor::run(const Input& op, const Prepared&) {
  const int64_t columns = width(op.out);
  per_token(batch_.token_count, columns, [&](int64_t t) {
    std::memcpy(data(op.out, t), batch_.features + t * columns, static_cast<size_t>(columns) * sizeof(float));
  });
}

void Executor::run(const AddPositions& op, const Prepared&) {
  const Weight& weight = plan_.weights[static_cast<size_t>(op.weight)];
  const int64_t columns = width(op.x);
  per_token(batch_.token_count, columns, [&](int64_t t) {
    kernels_.elementwise.embed(weight, batch_.positions[t], 1.f, data(op.out, t));
    kernels_.elementwise.finish(Activation::none, nullptr, data(op.x, t), columns, data(op.out, t));
  });
}

void Executor::run(const Unfold& op, const Prepared&) {
  for (const Run& run : runs_) {
    per_token(run.count, width(op.out), [&](int64_t i) {
      float* to = data(op.out, run.first + i);
      for (size_t n = 0; n < op.xs.size(); ++n) {
        const int64_t row = i + op.shifts[n];
        const auto bytes = static_cast<size_t>(width(op.xs[n])) * sizeof(float);
        if (row >= 0 && row < run.count) {
          std::memcpy(to, data(op.xs[n], run.first + row), bytes);
        } else {
          std::memset(to, 0, bytes);
        }
        to += width(op.xs[n]);
      }
    });
  }
}

void Executor::run(const RmsNorm& op, const Prepared&) {
  per_token(rows(op.x), width(op.x), [&](int64_t t) {
    kernels_.elementwise.rms_norm(data(op.x, t), vector(op.weight), op.eps, width(op.x), op.groups, data(op.out, t));
  });
}

void Executor::run(const LayerNorm& op, const Prepared&) {
  const float* bias = optional_vector(op.bias);
  per_token(rows(op.x), width(op.x), [&](int64_t t) {
    kernels_.elementwise.layer_norm(data(op.x, t), vector(op.weight), bias, op.eps, width(op.x), data(op.out, t));
  });
}

void Executor::run(const Slice& op, const Prepared&) {
  const int64_t piece = width(op.out) / op.pieces;
  per_token(rows(op.x), width(op.out), [&](int64_t t) {
    const float* from = data(op.x, t) + op.first;
    float* to = data(op.out, t);
    for (int64_t i = 0; i < op.pieces; ++i, from += op.stride, to += piece)
      std::memcpy(to, from, static_cast<size_t>(piece) * sizeof(float));
  });
}

void Executor::run(const Add& op, const Prepared&) {
  const int64_t columns = width(op.x);
  per_token(rows(op.x), columns, [&](int64_t t) {
    std::memcpy(data(op.out, t), data(op.x, t), static_cast<size_t>(columns) * sizeof(float));
    kernels_.elementwise.finish(Activation::none, nullptr, data(op.y, t), columns, data(op.out, t));
  });
}

void Executor::run(const Clip& op, const Prepared&) {
  per_token(rows(op.x), width(op.x),
            [&](int64_t t) { kernels_.elementwise.clip(data(op.x, t), op.limit, width(op.x), data(op.out, t)); });
}

void Executor::run(const Linear& op, const Prepared& prepared) {
  for (size_t i = 0; i < op.outs.size(); ++i)
    targets_[i] = {data(op.outs[i]), op.residual == -1 ? nullptr : data(op.residual)};
  prepared.linear->run(context_, data(op.x), rows(op.x), targets_.data());
}

void Executor::run(const LowRank& op, const Prepared& prepared) {
  const int64_t columns = width(op.y), rank = width(op.low), pieces = (columns + kPiece - 1) / kPiece;
  for (const Run& run : adapted_[static_cast<size_t>(op.adapter)]) {
    const Target low = {data(op.low, run.first), nullptr};
    prepared.linear->run(context_, data(op.x, run.first), run.count, &low);
    per_token(run.count * pieces, rank * std::min(kPiece, columns), [&](int64_t item) {
      const int64_t token = item % run.count, begin = item / run.count * kPiece;
      kernels_.elementwise.add_rows(low.y + token * rank, vector(op.up) + begin, rank, columns,
                                    std::min(kPiece, columns - begin), data(op.y, run.first + token) + begin);
    });
  }
}

void Executor::run(const Rope& op, const Prepared& prepared) {
  const Angles& angles = angles_[prepared.angles];
  per_token(batch_.token_count, width(op.x), [&](int64_t t) {
    kernels_.elementwise.rope(data(op.x, t), angles.cosines + t * angles.half, angles.sines + t * angles.half, op.heads,
                              op.head_dim, angles.half, data(op.out, t));
  });
}

void Executor::run(const Gated& op, const Prepared&) {
  per_token(rows(op.gate), width(op.gate), [&](int64_t t) {
    kernels_.elementwise.gated(op.activation, data(op.gate, t), data(op.up, t), width(op.gate), data(op.out, t));
  });
}

void Executor::run(const GatherRows& op, const Prepared&) {
  for (int64_t i = 0; i < batch_.wanted_count; ++i)
    std::memcpy(data(op.out, i), data(op.x, batch_.wanted[i]), static_cast<size_t>(width(op.x)) * sizeof(float));
}

void Executor::run(const Logits& op, const Prepared& prepared) {
  targets_[0] = {logits_, nullptr};
  prepared.linear->run(context_, data(op.x), batch_.wanted_count, targets_.data());
  if (op.cap == 0) return;
  const int64_t vocabulary = plan_.weights[static_cast<size_t>(op.weight)].rows;
  pool_.for_ranges(batch_.wanted_count * vocabulary, kSharedFloats, [&](int64_t begin, int64_t end, int) {
    kernels_.elementwise.soft_cap(op.cap, end - begin, logits_ + begin);
  });
}

void Executor::run(const Output& op, const Prepared&) {
  std::memcpy(logits_, data(op.x), static_cast<size_t>(batch_.wanted_count * width(op.x)) * sizeof(float));
}

}  // namespace cutwork
