// What one step computes.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/plan.h"

namespace cutwork {

// The caller's arrays, as docs/engine.md describes them.
struct Batch {
  const int32_t* tokens;
  const int32_t* positions;
  const int32_t* sequences;
  int64_t token_count;
  const int32_t* tables;  // [table_count, table_length]
  int64_t table_count, table_length;
  const int32_t* wanted;  // rows whose logits are wanted
  int64_t wanted_count;
  const int32_t* memory_tables;   // [table_count, memory_table_length], null for a plan without memory
  const int32_t* memory_lengths;  // [table_count]
  int64_t memory_table_length;
  const float* features;  // [token_count, feature_width], null for a plan without input
  int64_t feature_width;
  const int32_t* attention_of;  // [attention_of_count, 2]: layer and head of cross attention whose weights are kept
  int64_t attention_of_count;
  const int32_t* adapters;  // [table_count]: the adapter of each sequence, -1 for none; null if none has one

  const int32_t* table(int64_t token) const { return tables + sequences[token] * table_length; }
  const int32_t* memory_table(int64_t token) const { return memory_tables + sequences[token] * memory_table_length; }
};

// Consecutive tokens of one sequence.
struct Run {
  int64_t first, count;  // rows of the batch
  int64_t position;      // of the first token
};

// What the plan demands of every batch.
class BatchRules {
 public:
  explicit BatchRules(const Plan& plan);

  // The batch's runs in order. Throws std::invalid_argument for anything that an op would trust and that is not so.
  void check(const Batch& batch, std::vector<Run>& runs) const;

 private:
  void check_run(const Batch& batch, const Run& run) const;
  void check_memory(const Batch& batch, const Run& run) const;
  void check_extras(const Batch& batch) const;
  void check_adapters(const Batch& batch) const;

  int64_t max_tokens_, max_logits_;
  int64_t vocabulary_;  // rows of the smallest embedding
  int64_t block_size_ = 0, blocks_ = 0;
  int64_t memory_block_size_ = 0, memory_blocks_ = 0;
  int64_t positions_;          // rows of the smallest table of positions
  int64_t feature_width_ = 0;  // of the input, if there is one
  int64_t cross_layers_ = 0, cross_heads_ = 0;
  int64_t adapters_ = 0;
  int64_t window_ = 1;  // the widest of any attention, or -1
};

}  // namespace cutwork
