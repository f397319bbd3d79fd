// Runs a plan.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "kernels/kernels.h"
#include "runtime/allocation.h"
#include "runtime/batch.h"
#include "runtime/cache.h"
#include "runtime/linear_group.h"
#include "runtime/plan.h"
#include "runtime/pool.h"

namespace cutwork {

constexpr int64_t kSharedFloats = 16384;  // elementwise work from which waking another thread pays

// Owns the arena, the KV cache and the threads; whoever makes it keeps the memory of the weights alive. No global
// state.
class Executor {
 public:
  // Runs with the instruction set of `costs`, which choose the kernels. `memory` is what cross attention attends to:
  // the cache of another executor, described by plan.memory. Throws std::invalid_argument for a plan that verify()
  // refuses, and OutOfMemory.
  Executor(Plan plan, const Costs& costs, std::shared_ptr<const KvCache> memory = nullptr);

  // Runs every op on the batch; logits is [batch.wanted_count, result_width()]. Throws std::invalid_argument before
  // anything is computed if the batch breaks a rule, std::runtime_error if another step is under way.
  void step(const Batch& batch, bool profile, float* logits);

  // Copies blocks of the cache, (from, to), in order. Throws like step().
  void copy_blocks(const std::vector<std::pair<int64_t, int64_t>>& pairs);

  int threads() const { return pool_.threads(); }
  int64_t arena_bytes() const { return arena_.size(); }
  int64_t cache_bytes() const { return cache_ ? cache_->bytes() : 0; }
  int64_t result_width() const { return result_width_; }  // the vocabulary, or what an output has
  std::shared_ptr<const KvCache> cache() const { return cache_; }
  // The weights [pair, token, key] that the last step's heads of attention_of gave to each entry of the
  // memory, 0 beyond its length; keys is the longest memory of the step.
  struct AttentionWeights {
    std::vector<float> weights;
    int64_t pairs = 0, tokens = 0, keys = 0;
  };
  // Throws like step().
  AttentionWeights attention_weights();
  std::vector<double> profile();  // seconds per op of the last profiled step

 private:
  // The cosines and sines of a step's positions, [max_tokens, half] each.
  struct Angles {
    int64_t inv_freq;
    float scaling;
    int64_t half;
    float* cosines;
    float* sines;
  };
  // What an op needs beyond its fields.
  struct Prepared {
    std::optional<LinearGroup> linear;
    size_t angles = 0;
  };
  // What the kinds of attention have in common.
  struct Attending {
    const KvCache* cache;
    int64_t layer, q, out, heads, kv_heads, head_dim;
    float scale, cap;
    int64_t window;
    const float* slopes;
    const float* bias;
    int64_t behind, ahead;
  };
  // Rows of a run that one call of the attention kernel handles.
  struct QueryTile {
    int64_t row, count;    // of the batch
    int64_t position;      // of the first
    int64_t keys;          // as in AttentionTile
    const int32_t* table;  // blocks of the keys
  };
  // Segments of the keys of one (tile, kv head).
  struct KeyRange {
    int64_t item, begin, end;
    float* partials;  // where their results go
  };

  void prepare_ops(const Costs& costs);
  void allocate();
  void hold(const Batch& batch);
  void compute_angles();
  void find_adapted();

  // Calls job(token) for every token of [0, count), shared among the threads if `work`, in floats per token, is worth
  // it.
  template <class Job>
  void per_token(int64_t count, int64_t work, const Job& job);

  int64_t rows(int64_t buffer) const;
  int64_t width(int64_t buffer) const { return plan_.buffers[static_cast<size_t>(buffer)].width; }
  float* data(int64_t buffer) const;
  float* data(int64_t buffer, int64_t row) const { return data(buffer) + row * width(buffer); }
  const float* vector(int64_t id) const { return plan_.vectors[static_cast<size_t>(id)].data(); }
  const float* optional_vector(int64_t id) const { return id == -1 ? nullptr : vector(id); }
  // Of a bias per head and distance; 1 if there is none.
  int64_t entries(int64_t id, int64_t heads) const {
    return id == -1 ? 1 : static_cast<int64_t>(plan_.vectors[static_cast<size_t>(id)].size()) / heads;
  }

  int64_t prepare_attention();
  void add_tiles(const Run& run, int64_t position, int64_t keys, const int32_t* table, int64_t group);
  AttentionTile attention_tile(const Attending& op, int64_t item) const;
  template <class Kernel, class Place>
  void append(const Kernel& kernel, const KvCache& cache, int64_t layer, int64_t k, int64_t v, int64_t first,
              int64_t last, const Place& place);
  void start_keeping_weights();
  void keep_weights(const CrossAttention& op);
  // Attends with every tile of tiles_.
  void attend(const Attending& op, bool in_pairs = false);
  // Attention of few tiles, whose keys the threads share; false if there is nothing to gain.
  bool share_keys(const Attending& op, int64_t items);

  void run(const Embed& op, const Prepared& prepared);
  void run(const Input& op, const Prepared& prepared);
  void run(const AddPositions& op, const Prepared& prepared);
  void run(const Unfold& op, const Prepared& prepared);
  void run(const RmsNorm& op, const Prepared& prepared);
  void run(const LayerNorm& op, const Prepared& prepared);
  void run(const Slice& op, const Prepared& prepared);
  void run(const Add& op, const Prepared& prepared);
  void run(const Clip& op, const Prepared& prepared);
  void run(const Linear& op, const Prepared& prepared);
  void run(const LowRank& op, const Prepared& prepared);
  void run(const Rope& op, const Prepared& prepared);
  void run(const KvAppend& op, const Prepared& prepared);
  void run(const Attention& op, const Prepared& prepared);
  void run(const SelfAttention& op, const Prepared& prepared);
  void run(const CrossAttention& op, const Prepared& prepared);
  void run(const Gated& op, const Prepared& prepared);
  void run(const GatherRows& op, const Prepared& prepared);
  void run(const Logits& op, const Prepared& prepared);
  void run(const Output& op, const Prepared& prepared);

  const Plan plan_;
  const Kernels& kernels_;
  const BfloatAttention* bfloat_;  // of the processor, or null
  const AttentionKernels& attention_;
  const PairAttention* pairs_;  // of self_attention, where that may be in bfloat16; or null
  const BatchRules rules_;
  int64_t result_width_ = 0;
  std::shared_ptr<KvCache> cache_;
  std::shared_ptr<const KvCache> memory_cache_;
  std::unique_ptr<KvCache> step_cache_;  // keys and values of one self_attention
  std::vector<int32_t> step_blocks_;     // 0, 1, 2, ...: the table of step_cache_
  std::vector<int64_t> step_places_;     // where in it the rows of the step are
  std::vector<Prepared> prepared_;
  std::vector<Angles> angles_;
  Allocation arena_;  // buffers, then prepared inputs, angles and the threads' scratch
  LinearScratch scratch_ = {};
  float* partials_ = nullptr;  // of attention whose keys are shared among threads
  int64_t partial_floats_ = 0;
  std::vector<double> profile_;
  AttentionWeights attention_weights_;
  std::atomic_flag busy_ = ATOMIC_FLAG_INIT;

  // Of the step under way.
  std::vector<int32_t> indices_;  // what batch_ points into
  Batch batch_ = {};
  float* logits_ = nullptr;
  std::vector<Run> runs_;
  std::vector<std::vector<Run>> adapted_;  // rows with each adapter
  std::vector<QueryTile> tiles_;
  std::vector<KeyRange> key_ranges_;
  std::vector<float*> item_partials_;  // of each (tile, kv head) whose keys are shared
  std::vector<Target> targets_;

  ThreadPool pool_;  // after what its threads use, so that they end first
  const Context context_ = {.kernels = kernels_, .pool = pool_, .scratch = scratch_};
};

}  // namespace cutwork
