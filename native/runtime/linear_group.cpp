#include "runtime/linear_group.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace cutwork {
namespace {

constexpr int kPartsPerThread = 4;         // so that a thread that is late or slow leaves its share to the others
constexpr double kSharedCost = 16384;      // multiplied by tokens: from here on a group is worth a barrier
constexpr int64_t kSharedPrepare = 16384;  // elements from which preparing an input is worth a barrier

// What reading rows [begin, end) costs, in elements: the values, and a mask bit for each position.
double cost(const Weight& weight, int64_t begin, int64_t end) {
  if (weight.encoding == Encoding::dense) return static_cast<double>(end - begin) * static_cast<double>(weight.cols);
  const int64_t share = stream_rows(weight.dtype);
  const int64_t first = begin / share, last = (end + share - 1) / share;
  const double per_byte = weight.encoding == Encoding::bitmask ? 8 : 32;  // weights per byte of the mask
  return static_cast<double>(weight.offsets[last] - weight.offsets[first]) +
         static_cast<double>(end - begin) * static_cast<double>(weight.cols) / per_byte;
}

}  // namespace

LinearGroup::LinearGroup(std::vector<Member> members, Activation activation, int threads, const Costs& costs)
    : members_(std::move(members)),
      activation_(activation),
      parts_(static_cast<size_t>(threads == 1 ? 1 : threads * kPartsPerThread)) {
  for (const Member& member : members_) {
    choices_.push_back(choices(costs, member.weight));
    cost_ += cost(member.weight, 0, member.weight.rows);
    if (std::find(dtypes_.begin(), dtypes_.end(), member.weight.dtype) == dtypes_.end())
      dtypes_.push_back(member.weight.dtype);
  }
  // Row tiles in order go to the part whose equal share of the cost holds the tile's middle.
  double before = 0;
  for (size_t i = 0; i < members_.size(); ++i) {
    const Weight& weight = members_[i].weight;
    for (int64_t begin = 0; begin < weight.rows; begin += kRowTile) {
      const int64_t end = std::min(begin + kRowTile, weight.rows);
      const double own = cost(weight, begin, end);
      const double share = (before + own / 2) / std::max(cost_, 1.0) * static_cast<double>(parts_.size());
      std::vector<Slice>& part = parts_[std::min(static_cast<size_t>(share), parts_.size() - 1)];
      before += own;
      if (!part.empty() && part.back().member == i) {
        part.back().end = end;
      } else {
        part.push_back({i, begin, end});
      }
    }
  }
}

LinearGroup::Choice LinearGroup::choices(const Costs& costs, const Weight& weight) {
  constexpr int64_t kMost = 512;  // from here on more tokens change nothing
  const Shape shape = shape_of(weight);
  Choice chosen;
  for (int64_t tokens = 0; tokens <= kMost; ++tokens) {
    const Family best = costs.choose(shape, std::max<int64_t>(tokens, 1));
    if (chosen.empty() || chosen.back().second != best) chosen.emplace_back(tokens, best);
  }
  return chosen;
}

Family LinearGroup::family(const Choice& choice, int64_t tokens) {
  size_t i = choice.size() - 1;
  while (choice[i].first > tokens) --i;
  return choice[i].second;
}

int64_t LinearGroup::input_bytes(const LinearKernels& kernels, DType dtype, int64_t tokens) const {
  if (std::find(dtypes_.begin(), dtypes_.end(), dtype) == dtypes_.end()) return 0;
  return static_cast<int64_t>(kernels.input_bytes(dtype, tokens, members_[0].weight.cols));
}

int64_t LinearGroup::scratch_bytes(const LinearKernels& kernels, int64_t tokens) const {
  int64_t most = 0;
  for (size_t i = 0; i < members_.size(); ++i) {
    const Family chosen = family(choices_[i], tokens);
    most = std::max(most, static_cast<int64_t>(kernels.scratch_bytes(chosen, members_[i].weight, tokens)));
  }
  return most;
}

void LinearGroup::prepare(const LinearKernels& kernels, ThreadPool& pool, const LinearMemory& memory, const float* x,
                          int64_t tokens) const {
  const int64_t cols = members_[0].weight.cols;
  const bool shared = tokens * cols >= kSharedPrepare;
  const int64_t grain = shared ? (tokens + pool.threads() - 1) / pool.threads() : tokens;
  pool.for_ranges(tokens, grain, [&](int64_t begin, int64_t end, int) {
    for (DType dtype : dtypes_) {
      kernels.prepare(dtype, x, cols, tokens, cols, begin, end, memory.inputs[static_cast<size_t>(dtype)]);
    }
  });
}

void LinearGroup::run(const LinearKernels& kernels, const ElementwiseKernels& elementwise, ThreadPool& pool,
                      const LinearMemory& memory, const float* x, int64_t tokens, const Target* targets) const {
  if (tokens == 0) return;
  if (scratch_bytes(kernels, tokens) > memory.scratch_bytes)
    throw std::logic_error("the linear kernels need more scratch than was foreseen");
  prepare(kernels, pool, memory, x, tokens);
  const auto parts = static_cast<int64_t>(parts_.size());
  const int64_t grain = cost_ * static_cast<double>(tokens) < kSharedCost ? parts : 1;
  pool.for_ranges(parts, grain, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t part = begin; part < end; ++part) {
      for (const Slice& slice : parts_[static_cast<size_t>(part)])
        multiply(kernels, elementwise, memory, tokens, targets, slice, thread);
    }
  });
}

void LinearGroup::multiply(const LinearKernels& kernels, const ElementwiseKernels& elementwise,
                           const LinearMemory& memory, int64_t tokens, const Target* targets, const Slice& slice,
                           int thread) const {
  const Member& member = members_[slice.member];
  const Target& target = targets[slice.member];
  const int64_t rows = member.weight.rows;
  kernels.multiply(family(choices_[slice.member], tokens), member.weight,
                   memory.inputs[static_cast<size_t>(member.weight.dtype)], tokens, slice.begin, slice.end, target.y,
                   rows, memory.scratch[static_cast<size_t>(thread)]);
  if (!member.bias && !target.residual && activation_ == Activation::none) return;
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t at = t * rows + slice.begin;
    elementwise.finish(activation_, member.bias ? member.bias + slice.begin : nullptr,
                       target.residual ? target.residual + at : nullptr, slice.end - slice.begin, target.y + at);
  }
}

}  // namespace cutwork
