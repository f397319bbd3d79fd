#include "runtime/batch.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

namespace cutwork {
namespace {

void require(bool holds, const char* what, int64_t index, int64_t value, const char* rule, int64_t limit) {
  if (holds) return;
  throw std::invalid_argument(std::string(what) + "[" + std::to_string(index) + "] is " + std::to_string(value) + ", " +
                              rule + " " + std::to_string(limit));
}

void require_below(const char* what, int64_t index, int64_t value, int64_t limit) {
  require(value >= 0 && value < limit, what, index, value, "which is not between 0 and", limit - 1);
}

}  // namespace

BatchRules::BatchRules(const Plan& plan)
    : max_tokens_(plan.max_tokens),
      max_logits_(plan.max_logits),
      vocabulary_(std::numeric_limits<int32_t>::max()),
      positions_(std::numeric_limits<int32_t>::max()) {
  if (plan.cache && plan.cache->layers > 0) {
    block_size_ = plan.cache->block_size;
    blocks_ = plan.cache->blocks;
  }
  if (plan.memory) {
    memory_block_size_ = plan.memory->block_size;
    memory_blocks_ = plan.memory->blocks;
  }
  for (const AnyOp& op : plan.ops) {
    if (const auto* embed = std::get_if<Embed>(&op))
      vocabulary_ = std::min(vocabulary_, plan.weights[static_cast<size_t>(embed->weight)].rows);
    if (const auto* input = std::get_if<Input>(&op))
      feature_width_ = plan.buffers[static_cast<size_t>(input->out)].width;
    if (const auto* add = std::get_if<AddPositions>(&op))
      positions_ = std::min(positions_, plan.weights[static_cast<size_t>(add->weight)].rows);
    if (const auto* cross = std::get_if<CrossAttention>(&op)) {
      cross_layers_ = std::max(cross_layers_, cross->cache + 1);
      cross_heads_ = cross_heads_ == 0 ? cross->heads : std::min(cross_heads_, cross->heads);
    }
    if (const auto* low_rank = std::get_if<LowRank>(&op)) adapters_ = std::max(adapters_, low_rank->adapter + 1);
    if (const auto* attention = std::get_if<Attention>(&op))
      window_ = window_ < 0 || attention->window < 0 ? -1 : std::max(window_, attention->window);
  }
}

void BatchRules::check(const Batch& batch, std::vector<Run>& runs) const {
  if (batch.token_count < 1 || batch.token_count > max_tokens_)
    throw std::invalid_argument("a step takes 1 to " + std::to_string(max_tokens_) + " tokens (max_tokens), not " +
                                std::to_string(batch.token_count));
  if (batch.wanted_count > max_logits_)
    throw std::invalid_argument("a step gives at most " + std::to_string(max_logits_) +
                                " rows of logits (max_logits), not " + std::to_string(batch.wanted_count));
  for (int64_t i = 0; i < batch.wanted_count; ++i) require_below("logits_rows", i, batch.wanted[i], batch.token_count);

  runs.clear();
  std::vector<bool> seen(static_cast<size_t>(batch.table_count));
  for (int64_t t = 0; t < batch.token_count; ++t) {
    require_below("tokens", t, batch.tokens[t], vocabulary_);
    require_below("sequences", t, batch.sequences[t], batch.table_count);
    const int64_t position = batch.positions[t];
    require_below("positions", t, position, positions_);
    if (t > 0 && batch.sequences[t] == batch.sequences[t - 1]) {
      const int64_t expected = int64_t{batch.positions[t - 1]} + 1;
      require(position == expected, "positions", t, position, "though its sequence continues at", expected);
      ++runs.back().count;
      continue;
    }
    const auto sequence = static_cast<size_t>(batch.sequences[t]);
    require(!seen[sequence], "sequences", t, batch.sequences[t], "whose tokens are not contiguous up to token", t);
    seen[sequence] = true;
    runs.push_back({t, 1, position});
  }
  if (block_size_ > 0) {
    for (const Run& run : runs) check_run(batch, run);
  }
  if (memory_blocks_ > 0) {
    if (!batch.memory_tables) throw std::invalid_argument("this plan attends to a memory: memory_tables are missing");
    for (const Run& run : runs) check_memory(batch, run);
  } else if (batch.memory_tables) {
    throw std::invalid_argument("this plan attends to no memory, but memory_tables are given");
  }
  check_extras(batch);
  if (batch.adapters) check_adapters(batch);
}

void BatchRules::check_extras(const Batch& batch) const {
  if (batch.feature_width != feature_width_)
    throw std::invalid_argument("features must have " + std::to_string(feature_width_) + " columns, not " +
                                std::to_string(batch.feature_width));
  for (int64_t i = 0; i < batch.attention_of_count; ++i) {
    require_below("attention_of, layers", i, batch.attention_of[2 * i], cross_layers_);
    require_below("attention_of, heads", i, batch.attention_of[2 * i + 1], cross_heads_);
  }
}

void BatchRules::check_adapters(const Batch& batch) const {
  for (int64_t i = 0; i < batch.table_count; ++i) {
    const int64_t adapter = batch.adapters[i];
    require(adapter >= -1 && adapter < adapters_, "adapters", i, adapter, "which is not -1 or below", adapters_);
  }
}

void BatchRules::check_memory(const Batch& batch, const Run& run) const {
  const int32_t sequence = batch.sequences[run.first];
  const int64_t length = batch.memory_lengths[sequence], capacity = batch.memory_table_length * memory_block_size_;
  require(length >= 1 && length <= capacity, "memory_lengths", sequence, length, "which is not between 1 and",
          capacity);
  const int32_t* table = batch.memory_table(run.first);
  for (int64_t i = 0; i <= (length - 1) / memory_block_size_; ++i) {
    if (table[i] < 0 || table[i] >= memory_blocks_)
      throw std::invalid_argument("memory_tables[" + std::to_string(sequence) + ", " + std::to_string(i) + "] is " +
                                  std::to_string(table[i]) + ", which is not one of the memory's " +
                                  std::to_string(memory_blocks_) + " blocks");
  }
}

void BatchRules::check_run(const Batch& batch, const Run& run) const {
  const int64_t last = run.position + run.count - 1, capacity = batch.table_length * block_size_;
  require(last < capacity, "positions", run.first + run.count - 1, last, "but its block table ends at", capacity - 1);
  const int64_t first = window_ < 0 ? 0 : std::max<int64_t>(0, run.position - window_ + 1);
  const int32_t* table = batch.table(run.first);
  for (int64_t i = first / block_size_; i <= last / block_size_; ++i) {
    if (table[i] < 0 || table[i] >= blocks_)
      throw std::invalid_argument("block_tables[" + std::to_string(batch.sequences[run.first]) + ", " +
                                  std::to_string(i) + "] is " + std::to_string(table[i]) + ", but position " +
                                  std::to_string(last) + " needs one of the cache's " + std::to_string(blocks_) +
                                  " blocks there");
  }
}

}  // namespace cutwork
