#include "runtime/linear_group.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <utility>

namespace cutwork {
namespace {

constexpr int64_t kPartsPerThread = 4;     // so that a thread that is late or slow leaves its share to the others
constexpr double kSharedCost = 16384;      // multiplied by tokens: from here on a group is worth a barrier
constexpr int64_t kSharedPrepare = 16384;  // elements from which preparing an input is worth a barrier
constexpr int64_t kRearranged = 512;       // tokens whose rearranged input and sums stay near while zeros are skipped

// What reading rows [begin, end) costs, in elements: the values, and a mask bit for each position.
double cost(const Weight& weight, int64_t begin, int64_t end) {
  if (weight.encoding == Encoding::dense) return static_cast<double>(end - begin) * static_cast<double>(weight.cols);
  if (weight.encoding == Encoding::slots) {
    const int64_t first = begin / kRowTile, last = (end + kRowTile - 1) / kRowTile;
    const Slots& slots = weight.slots;
    const int64_t entries = slots.begins ? slots.begins[last] - slots.begins[first] : (last - first) * slots.per_tile;
    return static_cast<double>(entries * entry_bytes(weight));
  }
  const int64_t share = stream_rows(weight.dtype);
  const int64_t first = begin / share, last = (end + share - 1) / share;
  return static_cast<double>(weight.offsets[last] - weight.offsets[first]) +
         static_cast<double>(end - begin) * static_cast<double>(weight.cols) * mask_density(weight.encoding);
}

}  // namespace

LinearGroup::LinearGroup(std::vector<Member> members, Activation activation, int threads, const Costs& costs)
    : members_(std::move(members)), activation_(activation), threads_(threads) {
  for (const Member& member : members_) {
    rows_ += member.weight.rows;
    cost_ += cost(member.weight, 0, member.weight.rows);
    const DType read = input_dtype(member.weight.encoding, member.weight.dtype);
    if (std::find(dtypes_.begin(), dtypes_.end(), read) == dtypes_.end()) dtypes_.push_back(read);
  }
  constexpr int64_t kMost = 512;  // from here on more tokens change nothing
  std::vector<Algorithm> algorithms;
  for (int64_t first = 1, next = 1; next <= kMost; first = next) {
    const auto choose = [&](int64_t tokens) {
      std::vector<Algorithm> chosen;
      for (const Member& member : members_) chosen.push_back(costs.choose(shape_of(member.weight), tokens, threads));
      return chosen;
    };
    algorithms = choose(first);
    while (++next <= kMost && choose(next) == algorithms) {
    }
    add_schedule(first, next <= kMost ? next - 1 : std::numeric_limits<int64_t>::max(), algorithms, costs);
  }
}

// For many tokens a part is a panel: kernels lose where theirs are cut.
int64_t LinearGroup::part_count(const Schedule& schedule) const {
  if (threads_ == 1) return 1;
  const bool few_tokens = std::any_of(schedule.algorithms.begin(), schedule.algorithms.end(), [](Algorithm each) {
    return each == Algorithm::gemv || each == Algorithm::slots;
  });
  return few_tokens ? threads_ * kPartsPerThread : std::max(rows_ / kRowPanel, threads_);
}

size_t LinearGroup::kernel_of(const Schedule& schedule, size_t member) const {
  const Weight& weight = members_[member].weight;
  return kernel_index(schedule.algorithms[member], weight.encoding, weight.dtype);
}

// What a member takes, in any unit that is the same for all: members are stored in different ways.
double LinearGroup::time_of(size_t member, Algorithm algorithm, int64_t tokens, const Costs& costs) const {
  const Weight& weight = members_[member].weight;
  const double seconds = costs.seconds(shape_of(weight), algorithm, tokens, static_cast<int>(threads_));
  return std::isfinite(seconds) && seconds > 0 ? seconds : 1e-12 * cost(weight, 0, weight.rows);
}

void LinearGroup::add_schedule(int64_t first, int64_t last, std::vector<Algorithm> algorithms, const Costs& costs) {
  Schedule schedule = {
      .first = first, .last = last, .algorithms = std::move(algorithms), .rearranging = {}, .parts = {}};
  const auto parts = static_cast<size_t>(part_count(schedule));
  schedule.parts.resize(parts);
  std::vector<double> times;
  for (size_t i = 0; i < members_.size(); ++i) times.push_back(time_of(i, schedule.algorithms[i], first, costs));
  const double whole = std::max(std::accumulate(times.begin(), times.end(), 0.0), 1e-12);
  double before = 0;
  for (size_t i = 0; i < members_.size(); ++i) {
    const Weight& weight = members_[i].weight;
    const double elements = std::max(cost(weight, 0, weight.rows), 1.0);
    const bool skips = skips_zeros(schedule.algorithms[i]);
    const auto alike = [&](size_t other) { return kernel_of(schedule, other) == kernel_of(schedule, i); };
    if (skips && std::none_of(schedule.rearranging.begin(), schedule.rearranging.end(), alike))
      schedule.rearranging.push_back(i);
    // Row tiles in order go to the part whose equal share of the cost holds the tile's middle.
    const int64_t tile = skips && rows_ >= kRowPanel * threads_ ? kRowPanel : kRowTile;
    for (int64_t begin = 0; begin < weight.rows; begin += tile) {
      const int64_t end = std::min(begin + tile, weight.rows);
      const double own = times[i] * cost(weight, begin, end) / elements;
      const double share = (before + own / 2) / whole * static_cast<double>(parts);
      std::vector<RowRange>& part = schedule.parts[std::min(static_cast<size_t>(share), parts - 1)];
      before += own;
      if (!part.empty() && part.back().member == i) {
        part.back().end = end;
      } else {
        part.push_back({i, begin, end});
      }
    }
  }
  schedules_.push_back(std::move(schedule));
}

int64_t LinearGroup::Schedule::most_at_once(int64_t tokens) const {
  return std::min({last, tokens, rearranging.empty() ? last : kRearranged});
}

int64_t LinearGroup::Schedule::at_once(int64_t tokens) const {
  if (rearranging.empty()) return tokens;
  const int64_t turns = (tokens + kRearranged - 1) / kRearranged;
  return ((tokens + turns - 1) / turns + kTokenTile - 1) / kTokenTile * kTokenTile;
}

const LinearGroup::Schedule& LinearGroup::schedule(int64_t tokens) const {
  return *std::find_if(schedules_.begin(), schedules_.end(), [&](const Schedule& each) { return tokens <= each.last; });
}

int64_t LinearGroup::input_bytes(const LinearKernels& kernels, DType dtype, int64_t most) const {
  if (std::find(dtypes_.begin(), dtypes_.end(), dtype) == dtypes_.end()) return 0;
  return static_cast<int64_t>(kernels.input_bytes(dtype, most, members_[0].weight.cols));
}

int64_t LinearGroup::rearranged_bytes(const LinearKernels& kernels, Algorithm algorithm, Encoding encoding, DType dtype,
                                      int64_t most) const {
  size_t bytes = 0;
  for (const Schedule& each : schedules_)
    for (size_t i : each.rearranging)
      if (each.first <= most && kernel_of(each, i) == kernel_index(algorithm, encoding, dtype))
        bytes = std::max(bytes, kernels.rearranged_bytes(algorithm, encoding, dtype, each.most_at_once(most),
                                                         members_[i].weight.cols));
  return static_cast<int64_t>(bytes);
}

int64_t LinearGroup::scratch_bytes(const LinearKernels& kernels, int64_t most) const {
  int64_t bytes = 0;
  for (const Schedule& each : schedules_)
    for (size_t i = 0; each.first <= most && i < members_.size(); ++i)
      bytes = std::max(bytes, static_cast<int64_t>(kernels.scratch_bytes(each.algorithms[i], members_[i].weight,
                                                                         each.most_at_once(most))));
  return bytes;
}

void LinearGroup::prepare(const Context& context, const float* x, int64_t tokens, const Schedule& schedule) const {
  const LinearKernels& kernels = context.kernels.linear;
  const LinearScratch& scratch = context.scratch;
  const int64_t cols = members_[0].weight.cols;
  const bool shared = tokens * cols >= kSharedPrepare;
  const int64_t share = (tokens + context.pool.threads() - 1) / context.pool.threads();
  const int64_t grain = !shared ? tokens : schedule.rearranging.empty() ? share : kTokenTile;
  context.pool.for_ranges(tokens, grain, [&](int64_t begin, int64_t end, int) {
    for (DType dtype : dtypes_) {
      kernels.prepare(dtype, x, cols, tokens, cols, begin, end, scratch.inputs[static_cast<size_t>(dtype)]);
    }
    for (size_t i : schedule.rearranging) {
      const Weight& weight = members_[i].weight;
      kernels.rearrange_input(schedule.algorithms[i], weight.encoding, weight.dtype,
                              scratch.inputs[static_cast<size_t>(weight.dtype)], tokens, cols, begin, end,
                              scratch.rearranged[kernel_of(schedule, i)]);
    }
  });
}

void LinearGroup::run(const Context& context, const float* x, int64_t tokens, const Target* targets) const {
  if (tokens == 0) return;
  if (scratch_bytes(context.kernels.linear, tokens) > context.scratch.thread_bytes)
    throw std::logic_error("the linear kernels need more scratch than was foreseen");
  const Schedule& chosen = schedule(tokens);
  const int64_t at_once = chosen.at_once(tokens);
  for (int64_t first = 0; first < tokens; first += at_once)
    run_at_once(context, x + first * members_[0].weight.cols, std::min(at_once, tokens - first), targets, first,
                chosen);
}

// The tokens from `first` on, which are those of x.
void LinearGroup::run_at_once(const Context& context, const float* x, int64_t tokens, const Target* targets,
                              int64_t first, const Schedule& schedule) const {
  prepare(context, x, tokens, schedule);
  const auto parts = static_cast<int64_t>(schedule.parts.size());
  const int64_t grain = cost_ * static_cast<double>(tokens) < kSharedCost ? parts : 1;
  context.pool.for_ranges(parts, grain, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t part = begin; part < end; ++part) {
      for (const RowRange& range : schedule.parts[static_cast<size_t>(part)]) {
        const Target& whole = targets[range.member];
        const int64_t at = first * members_[range.member].weight.rows;
        const Target target = {whole.y + at, whole.residual ? whole.residual + at : nullptr};
        multiply(context, tokens, target, schedule, range, thread);
      }
    }
  });
}

void LinearGroup::multiply(const Context& context, int64_t tokens, const Target& target, const Schedule& schedule,
                           const RowRange& range, int thread) const {
  const Member& member = members_[range.member];
  const Weight& weight = member.weight;
  const Algorithm algorithm = schedule.algorithms[range.member];
  const LinearScratch& scratch = context.scratch;
  const char* input = skips_zeros(algorithm)
                          ? scratch.rearranged[kernel_of(schedule, range.member)]
                          : scratch.inputs[static_cast<size_t>(input_dtype(weight.encoding, weight.dtype))];
  const int64_t rows = weight.rows;
  context.kernels.linear.multiply(algorithm, weight, input, tokens, range.begin, range.end, target.y, rows,
                                  scratch.threads[static_cast<size_t>(thread)]);
  if (!member.bias && !target.residual && activation_ == Activation::none) return;
  int64_t begin = range.begin, end = range.end;
  if (weight.slots.order) {  // whose panels are orders of their own: of whole ones all rows are this thread's
    begin = std::min((begin + kSortedRows - 1) / kSortedRows * kSortedRows, end);
    if (end < rows) end = std::max(end / kSortedRows * kSortedRows, begin);
    finish_in_order(context, tokens, target, member, {range.member, range.begin, begin});
    finish_in_order(context, tokens, target, member, {range.member, end, range.end});
  }
  for (int64_t t = 0; begin < end && t < tokens; ++t) {
    const int64_t at = t * rows + begin;
    context.kernels.elementwise.finish(activation_, member.bias ? member.bias + begin : nullptr,
                                       target.residual ? target.residual + at : nullptr, end - begin, target.y + at);
  }
}

// Rows that are in another order than those of the outputs: what other threads write lies between them.
void LinearGroup::finish_in_order(const Context& context, int64_t tokens, const Target& target, const Member& member,
                                  const RowRange& range) const {
  for (int64_t place = range.begin; place < range.end; place += kRowTile) {
    const int32_t* rows = member.weight.slots.order + place;
    const auto count = static_cast<size_t>(std::min(range.end - place, kRowTile));
    float y[kRowTile], bias[kRowTile], residual[kRowTile];
    for (size_t r = 0; member.bias && r < count; ++r) bias[r] = member.bias[rows[r]];
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t at = t * member.weight.rows;
      for (size_t r = 0; r < count; ++r) y[r] = target.y[at + rows[r]];
      for (size_t r = 0; target.residual && r < count; ++r) residual[r] = target.residual[at + rows[r]];
      context.kernels.elementwise.finish(activation_, member.bias ? bias : nullptr,
                                         target.residual ? residual : nullptr, static_cast<int64_t>(count), y);
      for (size_t r = 0; r < count; ++r) target.y[at + rows[r]] = y[r];
    }
  }
}

}  // namespace cutwork
