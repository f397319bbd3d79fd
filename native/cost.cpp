#include "cost.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "cost_defaults.h"
#include "weight.h"

namespace cutwork {
namespace {

// A reordered weight is more to read than its bitmask, and threads share the memory: it has to be worth it where a
// thread gets a third of what one alone does.
constexpr double kCrowd = 3;

// So many tokens are multiplied at a time where zeros are skipped, also if fewer are left.
int64_t tokens_at_once(Family family) {
  return family == Family::spmm ? 16 : family == Family::rows ? 4 : 1;
}

template <class Use>
void for_each_kernel(const LinearKernels& kernels, const Use& use) {
  for (Family family : kFamilies)
    for (Encoding encoding : kEncodings)
      for (DType dtype : kDTypes)
        if (kernels.has(family, encoding, dtype)) use(family, encoding, dtype);
}

std::string kernel_name(Family family, Encoding encoding, DType dtype) {
  return std::string(family_name(family)) + " " + encoding_name(encoding) + " " + dtype_name(dtype);
}

// Bytes of what `rows` multiplies, if it has been worked out.
int64_t reordered_bytes(const Weight& weight) {
  return weight.reordered.steps ? weight.reordered.begins[weight.reordered.count] * kStepBytes : 0;
}

}  // namespace

Shape shape_of(const Weight& weight) {
  if (weight.encoding == Encoding::dense)
    return {weight.encoding, weight.dtype, weight.rows, weight.cols, weight.rows * weight.cols};
  const int64_t share = stream_rows(weight.dtype);
  const auto stored = static_cast<int64_t>(weight.offsets[(weight.rows + share - 1) / share]);
  return {
      weight.encoding,        weight.dtype, weight.rows, weight.cols, weight.dtype == DType::i4 ? 2 * stored : stored,
      reordered_bytes(weight)};
}

double stored_bytes(const Shape& shape) {
  const double positions = static_cast<double>(shape.rows) * static_cast<double>(shape.cols);
  constexpr double kInt4Scales = 2.0 / 128;  // bytes per position, at the usual group
  if (shape.dtype == DType::i4)
    return positions * kInt4Scales + (shape.encoding == Encoding::dense
                                          ? positions / 2
                                          : static_cast<double>(shape.nonzeros) / 2 + positions / 8);
  const auto element = static_cast<double>(element_size(shape.dtype));
  if (shape.encoding == Encoding::dense) return positions * element;
  return static_cast<double>(shape.nonzeros) * element + positions / (shape.encoding == Encoding::bitmask ? 8 : 32);
}

Costs::Costs(Isa isa)
    : one_thread(kDefaultBandwidth), all_threads(2 * kDefaultBandwidth), isa_(isa), kernels_(linear_kernels(isa)) {
  costs_.fill({-1, -1, -1});
  for (const DefaultCost& each : kDefaultCosts)
    if (each.isa == isa) costs_[kernel_index(each.family, each.encoding, each.dtype)] = each.cost;
}

const Cost& Costs::get(Family family, Encoding encoding, DType dtype) const {
  const Cost& own = costs_[kernel_index(family, encoding, dtype)];
  const bool blocks = encoding == Encoding::block1x4 || encoding == Encoding::block4x1;
  return blocks && own.product < 0 ? costs_[kernel_index(family, Encoding::bitmask, dtype)]
                                   : own;  // much the same kernel
}

Cost& Costs::at(const std::string& name) {
  Cost* found = nullptr;
  for_each_kernel(kernels_, [&](Family family, Encoding encoding, DType dtype) {
    if (kernel_name(family, encoding, dtype) == name) found = &costs_[kernel_index(family, encoding, dtype)];
  });
  if (found == nullptr) throw std::invalid_argument(std::string(isa_name(isa_)) + " has no kernel '" + name + "'");
  return *found;
}

std::vector<std::pair<std::string, Cost>> Costs::all() const {
  std::vector<std::pair<std::string, Cost>> named;
  for_each_kernel(kernels_, [&](Family family, Encoding encoding, DType dtype) {
    named.emplace_back(kernel_name(family, encoding, dtype), get(family, encoding, dtype));
  });
  return named;
}

double Costs::passes(const Shape& shape, Family family, int64_t tokens) const {
  if (family != Family::gemv) return 1;
  const int64_t at_once = kernels_.gemv_tokens(shape.dtype);
  return static_cast<double>((tokens + at_once - 1) / at_once);
}

Work Costs::work(const Shape& shape, Family family, int64_t tokens) const {
  const bool skipping = skips_zeros(family);
  const int64_t lanes = tokens_at_once(family);
  const auto multiplied = static_cast<double>((tokens + lanes - 1) / lanes * lanes);
  const double positions = static_cast<double>(shape.rows) * static_cast<double>(shape.cols);
  const auto nonzeros = static_cast<double>(shape.nonzeros);
  const double times = passes(shape, family, tokens);
  return {times * positions, times * nonzeros, multiplied * (skipping ? nonzeros : positions),
          skipping ? multiplied * positions : 0, multiplied * static_cast<double>(shape.rows)};
}

double Costs::seconds(const Shape& shape, Family family, int64_t tokens, int threads) const {
  const Cost& cost = get(family, shape.encoding, shape.dtype);
  if (cost.product < 0) return std::numeric_limits<double>::infinity();
  const bool reordered = family == Family::rows && shape.reordered > 0;
  Work all = work(shape, family, tokens);
  if (reordered) all.positions = all.nonzeros = 0;
  const double compute = 1e-12 *
                         (cost.position * all.positions + cost.nonzero * all.nonzeros + cost.product * all.products +
                          cost.listed * all.listed + cost.output * all.outputs) /
                         threads;
  const double bytes =
      reordered ? static_cast<double>(shape.reordered) : passes(shape, family, tokens) * stored_bytes(shape);
  const double read = bytes / std::min(one_thread * threads, all_threads);
  return family == Family::gemv || reordered ? std::max(compute, read) : compute + read;
}

Family Costs::choose(const Shape& shape, int64_t tokens) const {
  Family best = Family::gemv;
  double least = seconds(shape, best, tokens, 1);
  for (Family family : kFamilies) {
    if (!kernels_.has(family, shape.encoding, shape.dtype)) continue;
    double own = seconds(shape, family, tokens, 1);
    if (family == Family::rows && shape.reordered > 0)
      own = std::max(own, kCrowd * static_cast<double>(shape.reordered) / one_thread);
    if (own < least) {
      best = family;
      least = own;
    }
  }
  return best;
}

const char* family_name(Family family) {
  switch (family) {
    case Family::gemv:
      return "gemv";
    case Family::gemm:
      return "gemm";
    case Family::spmm:
      return "spmm";
    case Family::rows:
      break;
  }
  return "rows";
}

Family parse_family(const char* name) {
  std::string names;
  for (Family family : kFamilies) {
    if (std::string(name) == family_name(family)) return family;
    names += (names.empty() ? "" : ", ") + std::string(family_name(family));
  }
  throw std::invalid_argument(std::string("unknown kernel '") + name + "'; choose one of " + names);
}

}  // namespace cutwork
