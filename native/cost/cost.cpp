#include "cost/cost.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "cost/defaults.h"
#include "cost/intel.h"
#include "cost/zen4.h"
#include "kernels/tuning.h"
#include "weights/weight.h"

namespace cutwork {
namespace {

// A reordered weight is more to read than its bitmask, and threads share the memory: each of two is taken to get half
// of what one alone does, and none of more less than a third.
constexpr int kCrowd = 3;

// Of what one thread reads in a second, by all: from 1.1 to 2 times as much as memory is shared with other machines.
constexpr double kAllThreads = 1.5;

// Of the time that reading takes, by which computing is longer where memory, not a cache, has the weights: 0.1 to 0.15
// of bitmasks on Zen 4.
constexpr double kFetching = 0.125;

// Tokens beyond which gemv, which goes through a weight every few of them, is neither measured nor worth it.
constexpr int64_t kGemvMost = 64;

// Tokens of a step up to which floats are multiplied by gemv whatever is cheapest: its sums are the same for any number
// of tokens, so that what a draft has guessed is judged as if nobody had.
constexpr int64_t kAlike = 8;

// So many tokens are multiplied at a time where zeros are skipped, also if fewer are left.
int64_t tokens_at_once(Algorithm algorithm) {
  return algorithm == Algorithm::spmm_tokens ? 16 : algorithm == Algorithm::spmm_rows ? 4 : 1;
}

template <class Use>
void for_each_kernel(const LinearKernels& kernels, const Use& use) {
  for (Algorithm algorithm : kAlgorithms)
    for (Encoding encoding : kEncodings)
      for (DType dtype : kDTypes)
        if (kernels.has(algorithm, encoding, dtype)) use(algorithm, encoding, dtype);
}

std::string kernel_name(Algorithm algorithm, Encoding encoding, DType dtype) {
  return std::string(algorithm_name(algorithm)) + " " + encoding_name(encoding) + " " + dtype_name(dtype);
}

// What a slot takes of the time of one of the form whose costs were measured: strips of int8, tiles of int4. Wide ones
// take two lookups and windows: 1.5 to 1.9 on Zen 5, by the set, and 1.2 on Zen 4 where one instruction looks up bytes
// in two registers. Tiles have one window for all rows of a step: of several tokens, whose windows are what takes the
// time, they take 0.85 of int8's strips with AVX2 and 0.6 with 512 bits on Intel's. Where a lookup takes 64 bytes four
// steps share a block of several tokens' inputs, but for strips of int8: on Zen 4 its tiles take half of their time,
// and int4's strips a quarter more than its tiles, for their windows, or more where few tokens wait for memory as well.
double lookup(const Isa& isa, const Shape& shape, int64_t tokens) {
  if (shape.encoding != Encoding::slots) return 1;
  const bool blocks = isa.name == std::string("avx512") || isa.name == std::string("amx");
  const bool tiles = shape.form == SlotForm::tiles;
  if (shape.form == SlotForm::wide) return blocks ? 1.25 : 1.6;
  if (shape.dtype == DType::i8) {
    if (!tiles || tokens < 4 || (isa.needs & kAvx2) == 0) return 1;
    return blocks ? 0.5 : (isa.needs & kAvx512f) != 0 ? 0.6 : 0.85;
  }
  if (tiles) return 1;
  if (tokens == 1) return blocks ? 5 : 2.5;
  if (!blocks) return 1.2;
  return tokens <= 4 ? 1.6 : 1.25;
}

// What writing a slot out takes, of the time of one of the form whose costs were measured: those of a tile, which begin
// where lines do, take half as long as those of strips, and wide ones are written twice.
double writing(const Shape& shape) {
  if (shape.encoding != Encoding::slots) return 1;
  const double own = shape.form == SlotForm::tiles ? 0.5 : shape.form == SlotForm::strips ? 1 : 2;
  return shape.dtype == DType::i4 ? 2 * own : own;
}

// Of 128 slots, with where the windows of strips start; those of tiles may be even and need not be read.
int64_t entry_bytes(const Shape& shape) {
  const int64_t slots = shape.dtype == DType::i4 ? 2 * kStepSlots : record_bytes(shape.form);
  const int64_t starts = shape.form == SlotForm::tiles ? 0 : 2 * step_starts(shape.form);
  return slots + starts * int64_t{sizeof(uint16_t)};
}

// Of what spmm_rows multiplies, 0 if that has not been worked out.
int64_t reordered_bytes(const Weight& weight) {
  return weight.reordered.steps ? weight.reordered.begins[weight.reordered.count] * kStepBytes : 0;
}

}  // namespace

Shape shape_of(const Weight& weight) {
  if (weight.encoding == Encoding::slots) {
    const int64_t tiles = tile_count(weight.rows);
    const int64_t entries = weight.slots.begins ? weight.slots.begins[tiles] : tiles * weight.slots.per_tile;
    return {.encoding = weight.encoding,
            .dtype = weight.dtype,
            .rows = weight.rows,
            .cols = weight.cols,
            .nonzeros = entries * kStepSlots * (weight.dtype == DType::i4 ? 1 : 2),
            .form = weight.slots.form};
  }
  const bool dense = weight.encoding == Encoding::dense;
  const int64_t streams = (weight.rows + stream_rows(weight.dtype) - 1) / stream_rows(weight.dtype);
  const int64_t stored = dense ? weight.rows * weight.cols : static_cast<int64_t>(weight.offsets[streams]);
  const bool bytes = !dense && weight.dtype == DType::i4;  // each of two codes
  return {.encoding = weight.encoding,
          .dtype = weight.dtype,
          .rows = weight.rows,
          .cols = weight.cols,
          .nonzeros = bytes ? 2 * stored : stored,
          .reordered = reordered_bytes(weight)};
}

double stored_bytes(const Shape& shape) {
  const double positions = static_cast<double>(shape.rows) * static_cast<double>(shape.cols);
  constexpr double kInt4Scales = 2.0 / 128;  // bytes per position, at the usual group
  if (shape.encoding == Encoding::slots)
    return static_cast<double>(shape.nonzeros * entry_bytes(shape)) / (2 * kStepSlots) +
           (shape.dtype == DType::i4 ? positions * kInt4Scales : 0);
  if (shape.dtype == DType::i4)
    return positions * kInt4Scales +
           (shape.encoding == Encoding::dense
                ? positions / 2
                : static_cast<double>(shape.nonzeros) / 2 + positions * mask_density(Encoding::bitmask));
  const auto element = static_cast<double>(element_size(shape.dtype));
  if (shape.encoding == Encoding::dense) return positions * element;
  return static_cast<double>(shape.nonzeros) * element + positions * mask_density(shape.encoding);
}

Processor this_processor() {
  if (amd_family() == kZen3And4) return Processor::zen4;
  return is_intel() ? Processor::intel : Processor::other;
}

const char* processor_name(Processor processor) {
  return processor == Processor::zen4 ? "zen4" : processor == Processor::intel ? "intel" : "other";
}

Costs::Costs(const Isa& isa, Processor processor) : isa_(&isa) {
  costs_.fill({.position = -1, .nonzero = -1, .product = -1});
  const auto take = [&](const std::string& name, const auto& costs) {
    for (const DefaultCost& each : costs)
      if (each.isa == name) costs_[kernel_index(each.algorithm, each.encoding, each.dtype)] = each.cost;
  };
  const bool zen4 = processor == Processor::zen4, intel = processor == Processor::intel;
  for (const Likeness& each : kLikenesses)
    if (std::string(each.isa) == isa.name) {
      take(each.like, kDefaultCosts);
      if (zen4) take(each.like, kZen4Costs);
    }
  take(isa.name, kDefaultCosts);
  if (zen4 || std::string(isa.name) == kZen4Alone) take(isa.name, kZen4Costs);
  if (intel || std::string(isa.name) == kIntelAlone) take(isa.name, kIntelCosts);
  one_thread = zen4 ? kZen4Bandwidth : intel ? kIntelBandwidth : kDefaultBandwidth;
  all_threads = kAllThreads * one_thread;
  uneven_ = intel ? kIntelUneven : 1;
}

const Cost& Costs::get(Algorithm algorithm, Encoding encoding, DType dtype) const {
  const Cost& own = costs_[kernel_index(algorithm, encoding, dtype)];
  const bool blocks = encoding == Encoding::block1x4 || encoding == Encoding::block4x1;
  return blocks && own.product < 0 ? costs_[kernel_index(algorithm, Encoding::bitmask, dtype)]
                                   : own;  // much the same kernel
}

Cost& Costs::at(const std::string& name) {
  Cost* found = nullptr;
  for_each_kernel(kernels(), [&](Algorithm algorithm, Encoding encoding, DType dtype) {
    if (kernel_name(algorithm, encoding, dtype) == name) found = &costs_[kernel_index(algorithm, encoding, dtype)];
  });
  if (found == nullptr) throw std::invalid_argument(std::string(isa_->name) + " has no kernel '" + name + "'");
  return *found;
}

std::vector<std::pair<std::string, Cost>> Costs::all() const {
  std::vector<std::pair<std::string, Cost>> named;
  for_each_kernel(kernels(), [&](Algorithm algorithm, Encoding encoding, DType dtype) {
    named.emplace_back(kernel_name(algorithm, encoding, dtype), get(algorithm, encoding, dtype));
  });
  return named;
}

double Costs::passes(const Shape& shape, Algorithm algorithm, int64_t tokens) const {
  if (algorithm != Algorithm::gemv) return 1;  // slots of a panel stay near while tokens take turns
  const int64_t at_once = kernels().gemv_tokens(shape.encoding, shape.dtype);
  return static_cast<double>((tokens + at_once - 1) / at_once);
}

Work Costs::work(const Shape& shape, Algorithm algorithm, int64_t tokens) const {
  const bool skipping = skips_zeros(algorithm) || algorithm == Algorithm::slots;
  const int64_t lanes = tokens_at_once(algorithm);
  const auto multiplied = static_cast<double>((tokens + lanes - 1) / lanes * lanes);
  const double positions = static_cast<double>(shape.rows) * static_cast<double>(shape.cols);
  const auto nonzeros = static_cast<double>(shape.nonzeros);
  const double times = passes(shape, algorithm, tokens), each = lookup(*isa_, shape, tokens);
  const double written = algorithm == Algorithm::gemm ? writing(shape) * nonzeros : nonzeros;
  return {times * positions, times * written, multiplied * (skipping ? each * nonzeros : positions),
          skipping ? multiplied * positions : 0, multiplied * static_cast<double>(shape.rows)};
}

double Costs::seconds(const Shape& shape, Algorithm algorithm, int64_t tokens, int threads) const {
  const Cost& cost = get(algorithm, shape.encoding, shape.dtype);
  if (cost.product < 0) return std::numeric_limits<double>::infinity();
  const bool reordered = algorithm == Algorithm::spmm_rows && shape.reordered > 0;
  Work all = work(shape, algorithm, tokens);
  if (reordered) all.positions = all.nonzeros = 0;
  const double compute = 1e-12 *
                         (cost.position * all.positions + cost.nonzero * all.nonzeros + cost.product * all.products +
                          cost.listed * all.listed + cost.output * all.outputs) /
                         threads;
  const bool uneven = shape.encoding == Encoding::slots && shape.dtype == DType::i4 && shape.form != SlotForm::tiles;
  const double read = (reordered ? static_cast<double>(shape.reordered) : stored_bytes(shape)) *
                      (uneven ? uneven_ : 1) / std::min(one_thread * threads, all_threads);
  const bool overlap = algorithm == Algorithm::gemv || algorithm == Algorithm::slots || reordered;
  return overlap ? std::max(compute + kFetching * read, read) : compute + read;
}

Algorithm Costs::choose(const Shape& shape, int64_t tokens, int threads) const {
  if (tokens <= kAlike && (shape.dtype == DType::f32 || shape.dtype == DType::bf16)) return Algorithm::gemv;
  const double crowd = std::min(threads, kCrowd);
  Algorithm best = shape.encoding == Encoding::slots ? Algorithm::slots : Algorithm::gemv;
  const bool few = tokens <= kGemvMost || best == Algorithm::slots;
  double least = few ? seconds(shape, best, tokens, 1) : std::numeric_limits<double>::infinity();
  for (Algorithm algorithm : kAlgorithms) {
    if (!kernels().has(algorithm, shape.encoding, shape.dtype)) continue;
    if (algorithm == Algorithm::gemv && !few) continue;
    double own = seconds(shape, algorithm, tokens, 1);
    if (algorithm == Algorithm::spmm_rows && shape.reordered > 0)
      own = std::max(own, crowd * static_cast<double>(shape.reordered) / one_thread);
    if (own < least) {
      best = algorithm;
      least = own;
    }
  }
  return best;
}

const char* algorithm_name(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::gemv:
      return "gemv";
    case Algorithm::gemm:
      return "gemm";
    case Algorithm::spmm_tokens:
      return "spmm_tokens";
    case Algorithm::spmm_rows:
      return "spmm_rows";
    case Algorithm::slots:
      break;
  }
  return "slots";
}

Algorithm parse_algorithm(const char* name) {
  std::string names;
  for (Algorithm algorithm : kAlgorithms) {
    if (std::string(name) == algorithm_name(algorithm)) return algorithm;
    names += (names.empty() ? "" : ", ") + std::string(algorithm_name(algorithm));
  }
  throw std::invalid_argument(std::string("unknown kernel '") + name + "'; choose one of " + names);
}

}  // namespace cutwork
