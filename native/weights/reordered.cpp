// What spmm_rows multiplies, worked out beforehand.
#include <cstring>
#include <mutex>
#include <string>
#include <utility>

#include "kernels/isa.h"
#include "weights/weight.h"

namespace cutwork {

bool OwnedWeight::reorder() {
  const LinearKernels& kernels = chosen_isa().kernels.linear;
  if (!kernels.has(Algorithm::spmm_rows, view_.encoding, view_.dtype)) return false;
  const std::lock_guard<std::mutex> lock(*reordering_);
  if (view_.reordered.steps) return true;
  const std::string advice = "load the model without reordering its weights";
  const AlignedBytes scratch = aligned_bytes(kernels.scratch_bytes(Algorithm::spmm_rows, view_, 1));
  begins_.assign(1, 0);
  const auto count_steps = [](void* to, const void*, const uint16_t*, int64_t count) {
    auto& begins = *static_cast<std::vector<int64_t>*>(to);
    begins.push_back(begins.back() + count);
  };
  kernels.list_steps(view_, count_steps, &begins_, scratch.get());
  steps_ = Allocation(begins_.back() * kStepBytes, "a reordered weight", advice);
  windows_ = Allocation(begins_.back() * int64_t{sizeof(uint16_t)}, "a reordered weight", advice);
  std::pair<char*, char*> next = {steps_.data(), windows_.data()};
  const auto copy_steps = [](void* to, const void* steps, const uint16_t* windows, int64_t count) {
    if (count == 0) return;  // a weight without nonzeros has no memory for steps, and memcpy refuses null even then
    auto& [step, window] = *static_cast<std::pair<char*, char*>*>(to);
    const auto bytes = static_cast<size_t>(count * kStepBytes), window_bytes = static_cast<size_t>(count) * 2;
    std::memcpy(step, steps, bytes);
    std::memcpy(window, windows, window_bytes);
    step += bytes;
    window += window_bytes;
  };
  kernels.list_steps(view_, copy_steps, &next, scratch.get());
  view_.reordered = {.steps = steps_.data(),
                     .windows = reinterpret_cast<const uint16_t*>(windows_.data()),
                     .begins = begins_.data(),
                     .count = static_cast<int64_t>(begins_.size()) - 1};
  return true;
}

}  // namespace cutwork
