#include "runtime/executor.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>

namespace cutwork {
namespace {

constexpr int64_t kAlignment = 64;

Plan verified(Plan plan) {
  verify(plan);
  return plan;
}

int64_t padded(int64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// Holds the executor for one call; a second call at the same time is a mistake of the caller's.
class Turn {
 public:
  explicit Turn(std::atomic_flag& busy) : busy_(busy) {
    if (busy_.test_and_set(std::memory_order_acquire))
      throw std::runtime_error("this executor is already running a step: call it from one thread at a time");
  }
  ~Turn() { busy_.clear(std::memory_order_release); }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  std::atomic_flag& busy_;
};

}  // namespace

Executor::Executor(Plan plan, const Costs& costs, std::shared_ptr<const KvCache> memory)
    : plan_(verified(std::move(plan))),
      kernels_(costs.isa().kernels),
      bfloat_(bfloat_attention(costs.isa())),
      attention_(bfloat_ ? bfloat_->cached : kernels_.attention),
      pairs_(bfloat_ && bfloat_->step.attend && plan_.cache && plan_.cache->dtype != DType::f32 ? &bfloat_->step
                                                                                                : nullptr),
      rules_(plan_),
      memory_cache_(std::move(memory)),
      pool_(plan_.threads) {
  if (plan_.cache && plan_.cache->layers > 0) cache_ = std::make_shared<KvCache>(*plan_.cache);
  prepare_ops(costs);
  allocate();
}

void Executor::prepare_ops(const Costs& costs) {
  const auto member = [this](int64_t weight, int64_t bias) {
    return Member{plan_.weights[static_cast<size_t>(weight)], optional_vector(bias)};
  };
  for (const AnyOp& op : plan_.ops) {
    Prepared& prepared = prepared_.emplace_back();
    if (const auto* linear = std::get_if<Linear>(&op)) {
      std::vector<Member> members;
      for (size_t i = 0; i < linear->outs.size(); ++i) members.push_back(member(linear->weights[i], linear->biases[i]));
      targets_.resize(std::max(targets_.size(), members.size()));
      prepared.linear.emplace(std::move(members), linear->activation, plan_.threads, costs);
    } else if (const auto* low_rank = std::get_if<LowRank>(&op)) {
      prepared.linear.emplace(std::vector<Member>{member(low_rank->down, -1)}, Activation::none, plan_.threads, costs);
      adapted_.resize(std::max(adapted_.size(), static_cast<size_t>(low_rank->adapter) + 1));
    } else if (const auto* logits = std::get_if<Logits>(&op)) {
      result_width_ = plan_.weights[static_cast<size_t>(logits->weight)].rows;
      prepared.linear.emplace(std::vector<Member>{member(logits->weight, logits->bias)}, Activation::none,
                              plan_.threads, costs);
      targets_.resize(std::max<size_t>(targets_.size(), 1));
    } else if (const auto* output = std::get_if<Output>(&op)) {
      result_width_ = width(output->x);
    } else if (const auto* rope = std::get_if<Rope>(&op)) {
      const auto same = [&](const Angles& a) { return a.inv_freq == rope->inv_freq && a.scaling == rope->scaling; };
      prepared.angles = static_cast<size_t>(std::find_if(angles_.begin(), angles_.end(), same) - angles_.begin());
      if (prepared.angles == angles_.size()) {
        const auto half = static_cast<int64_t>(plan_.vectors[static_cast<size_t>(rope->inv_freq)].size());
        angles_.push_back({rope->inv_freq, rope->scaling, half, nullptr, nullptr});
      }
    }
  }
}

void Executor::allocate() {
  const int64_t most_rows = std::max(plan_.max_tokens, plan_.max_logits);
  int64_t floats = 0;
  for (const Buffer& buffer : plan_.buffers) floats = std::max(floats, buffer.offset + buffer.width);

  std::vector<int64_t> sizes = {checked_product("the arena", {floats, most_rows, int64_t{sizeof(float)}})};
  for (DType dtype : kDTypes) {
    int64_t bytes = 0;
    for (const Prepared& each : prepared_)
      if (each.linear) bytes = std::max(bytes, each.linear->input_bytes(kernels_.linear, dtype, most_rows));
    sizes.push_back(bytes);
  }
  for (Algorithm algorithm : kAlgorithms)  // in the order of kernel_index
    for (Encoding encoding : kEncodings)
      for (DType dtype : kDTypes) {
        int64_t bytes = 0;
        for (const Prepared& each : prepared_)
          if (each.linear)
            bytes =
                std::max(bytes, each.linear->rearranged_bytes(kernels_.linear, algorithm, encoding, dtype, most_rows));
        sizes.push_back(bytes);
      }
  for (const Angles& each : angles_)
    sizes.push_back(checked_product("the arena", {2, plan_.max_tokens, each.half, int64_t{sizeof(float)}}));

  int64_t scratch = prepare_attention();
  for (const Prepared& each : prepared_)
    if (each.linear) scratch = std::max(scratch, each.linear->scratch_bytes(kernels_.linear, most_rows));
  sizes.push_back(checked_product("the arena", {partial_floats_, int64_t{sizeof(float)}}));
  sizes.insert(sizes.end(), static_cast<size_t>(plan_.threads), scratch);
  scratch_.thread_bytes = scratch;

  int64_t total = 0;
  for (int64_t size : sizes)
    if (__builtin_add_overflow(total, padded(size), &total)) throw std::invalid_argument("the arena is too large");
  arena_ = Allocation(total, "activations", "use a smaller max_tokens");

  char* next = arena_.data();
  auto take = [&next, size = sizes.begin()]() mutable {
    char* start = next;
    next += padded(*size++);
    return start;
  };
  take();  // the buffers
  for (size_t i = 0; i < kDTypeCount; ++i) scratch_.inputs.push_back(take());
  for (size_t i = 0; i < kKernelCount; ++i) scratch_.rearranged.push_back(take());
  for (Angles& each : angles_) {
    each.cosines = reinterpret_cast<float*>(take());
    each.sines = each.cosines + plan_.max_tokens * each.half;
  }
  partials_ = reinterpret_cast<float*>(take());
  for (int i = 0; i < plan_.threads; ++i) scratch_.threads.push_back(take());
}

// Copies what the caller could change in another thread after it has been checked.
void Executor::hold(const Batch& batch) {
  indices_.clear();
  const auto copy = [this](const int32_t* from, int64_t count) {
    indices_.insert(indices_.end(), from, from + count);
    return count;
  };
  const int64_t tokens = copy(batch.tokens, batch.token_count);
  const int64_t positions = tokens + copy(batch.positions, batch.token_count);
  const int64_t sequences = positions + copy(batch.sequences, batch.token_count);
  const int64_t tables = sequences + copy(batch.tables, batch.table_count * batch.table_length);
  const int64_t wanted = tables + copy(batch.wanted, batch.wanted_count);
  int64_t lengths = 0;
  if (batch.memory_tables) {
    lengths = wanted + copy(batch.memory_tables, batch.table_count * batch.memory_table_length);
    copy(batch.memory_lengths, batch.table_count);
  }
  const auto attention_of = static_cast<int64_t>(indices_.size());
  const int64_t adapters = attention_of + copy(batch.attention_of, 2 * batch.attention_of_count);
  if (batch.adapters) copy(batch.adapters, batch.table_count);
  batch_ = batch;
  batch_.tokens = indices_.data();
  batch_.positions = batch_.tokens + tokens;
  batch_.sequences = batch_.tokens + positions;
  batch_.tables = batch_.tokens + sequences;
  batch_.wanted = batch_.tokens + tables;
  batch_.attention_of = batch_.tokens + attention_of;
  if (batch.adapters) batch_.adapters = batch_.tokens + adapters;
  if (batch.memory_tables) {
    batch_.memory_tables = batch_.tokens + wanted;
    batch_.memory_lengths = batch_.tokens + lengths;
  }
}

// Neighbours with the same adapter are multiplied together.
void Executor::find_adapted() {
  for (std::vector<Run>& rows : adapted_) rows.clear();
  if (!batch_.adapters) return;
  for (const Run& run : runs_) {
    const int32_t adapter = batch_.adapters[batch_.sequences[run.first]];
    if (adapter == -1) continue;
    std::vector<Run>& rows = adapted_[static_cast<size_t>(adapter)];
    if (!rows.empty() && rows.back().first + rows.back().count == run.first) {
      rows.back().count += run.count;
    } else {
      rows.push_back(run);
    }
  }
}

void Executor::step(const Batch& batch, bool profile, float* logits) {
  const Turn turn(busy_);
  pool_.check_process();
  hold(batch);
  rules_.check(batch_, runs_);
  logits_ = logits;
  if (profile) profile_.assign(plan_.ops.size(), 0.0);
  start_keeping_weights();
  compute_angles();
  find_adapted();
  for (size_t i = 0; i < plan_.ops.size(); ++i) {
    const auto run_op = [&](const auto& op) { run(op, prepared_[i]); };
    if (profile) {
      const auto start = std::chrono::steady_clock::now();
      std::visit(run_op, plan_.ops[i]);
      profile_[i] = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    } else {
      std::visit(run_op, plan_.ops[i]);
    }
  }
}

Executor::AttentionWeights Executor::attention_weights() {
  const Turn turn(busy_);
  return attention_weights_;
}

std::vector<double> Executor::profile() {
  const Turn turn(busy_);
  return profile_;
}

void Executor::copy_blocks(const std::vector<std::pair<int64_t, int64_t>>& pairs) {
  const Turn turn(busy_);
  if (!cache_) throw std::invalid_argument("this executor has no cache");
  for (const auto& [from, to] : pairs) {
    cache_->require_block(from);
    cache_->require_block(to);
  }
  for (const auto& [from, to] : pairs) cache_->copy(from, to);
}

}  // namespace cutwork
