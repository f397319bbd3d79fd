// Attention: over the cache, over the rows of a step, and over another executor's cache.
#include <algorithm>
#include <numeric>

#include "runtime/executor.h"

namespace cutwork {
namespace {

// Of attention, from which waking another thread pays.
constexpr int64_t kSharedMultiplies = 100000;
constexpr int64_t kItemsPerThread = 4;        // pieces of attention from which the threads need no smaller ones
constexpr int64_t kSharedKeys = 1 << 18;      // of a longer context, threads share the heads only
constexpr int64_t kStepBlock = 2 * kKeyTile;  // keys per block of the cache of one step

}  // namespace

// Makes the cache that self_attention needs, and returns the bytes of scratch a thread needs for all attention.
int64_t Executor::prepare_attention() {
  int64_t scratch = 0;
  const auto need = [&](const KvCache& cache, int64_t heads) {
    const CacheLayout& layout = cache.layout();
    const int64_t rows = std::max(heads / layout.kv_heads, kQueryRows);
    scratch = std::max(scratch, static_cast<int64_t>(attention_.scratch_bytes(layout, rows)));
    const int64_t keys =
        std::min(checked_product("the KV cache", {layout.block_size, cache.shape().blocks}), kSharedKeys);
    const int64_t segments = (keys + kKeySegment - 1) / kKeySegment;
    if (plan_.threads > 1) partial_floats_ = std::max(partial_floats_, segments * partial_floats(layout, heads));
  };
  for (const AnyOp& op : plan_.ops) {
    const auto* self = std::get_if<SelfAttention>(&op);
    if (self && (self->head_dim % 2 != 0 || self->cap != 0)) pairs_ = nullptr;
  }
  for (const AnyOp& op : plan_.ops) {
    if (const auto* causal = std::get_if<Attention>(&op)) need(*cache_, causal->heads);
    if (const auto* cross = std::get_if<CrossAttention>(&op)) need(*memory_cache_, cross->heads);
    if (const auto* self = std::get_if<SelfAttention>(&op)) {
      // Each run starts a block, so short runs fill fewer keys than there is room for; run() takes several turns then.
      const int64_t blocks = 2 * ((plan_.max_tokens + kStepBlock - 1) / kStepBlock);
      const DType dtype = pairs_ ? DType::bf16 : DType::f32;
      if (!step_cache_)
        step_cache_ = std::make_unique<KvCache>(CacheShape{1, self->heads, self->head_dim, kStepBlock, blocks, dtype});
      if (pairs_)
        scratch = std::max(scratch, static_cast<int64_t>(pairs_->scratch_bytes(step_cache_->layout(), kQueryRows)));
      step_blocks_.resize(static_cast<size_t>(blocks));
      std::iota(step_blocks_.begin(), step_blocks_.end(), 0);
      need(*step_cache_, self->heads);
    }
  }
  return scratch;
}

// Writes keys and values of rows [first, last) into a layer of a cache; place(row) is where: counted in tokens from the
// cache's first block.
template <class Kernel, class Place>
void Executor::append(const Kernel& kernel, const KvCache& cache, int64_t layer, int64_t k, int64_t v, int64_t first,
                      int64_t last, const Place& place) {
  const CacheLayout& layout = cache.layout();
  // Threads share the heads and not the tokens, whose keys are neighbours in memory.
  const int64_t work = (last - first) * layout.head_dim;
  pool_.for_ranges(layout.kv_heads, std::max<int64_t>(1, kSharedFloats / work), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = first; row < last; ++row) {
      const int64_t at = place(row);
      char* block = cache.block(layer, at / layout.block_size);
      for (int64_t head = begin; head < end; ++head) {
        kernel.append(layout, block, head, at % layout.block_size, data(k, row) + head * layout.head_dim,
                      data(v, row) + head * layout.head_dim);
      }
    }
  });
}

void Executor::run(const KvAppend& op, const Prepared&) {
  const int64_t size = cache_->layout().block_size;
  append(attention_, *cache_, op.cache, op.k, op.v, 0, batch_.token_count, [&](int64_t row) {
    const int64_t position = batch_.positions[row];
    return batch_.table(row)[position / size] * size + position % size;
  });
}

// The rows of a run as tiles_ of at most kQueryRows heads that share keys.
void Executor::add_tiles(const Run& run, int64_t position, int64_t keys, const int32_t* table, int64_t group) {
  const int64_t most = std::max<int64_t>(1, kQueryRows / group);
  for (int64_t i = 0; i < run.count; i += most)
    tiles_.push_back({run.first + i, std::min(most, run.count - i), position + i, keys, table});
}

// One kv head of a tile. The tiles with most keys come last in their run: starting with them leaves little to wait for
// at the end.
AttentionTile Executor::attention_tile(const Attending& op, int64_t item) const {
  const QueryTile& tile = tiles_[tiles_.size() - 1 - static_cast<size_t>(item / op.kv_heads)];
  const int64_t kv_head = item % op.kv_heads, group = op.heads / op.kv_heads, head = kv_head * group;
  return {.cache = op.cache->layout(),
          .layer = op.cache->layer(op.layer),
          .table = tile.table,
          .kv_head = kv_head,
          .q = data(op.q, tile.row) + head * op.head_dim,
          .out = data(op.out, tile.row) + head * op.head_dim,
          .q_stride = width(op.q),
          .out_stride = width(op.out),
          .queries = tile.count,
          .group = group,
          .position = tile.position,
          .keys = tile.keys,
          .window = op.window,
          .scale = op.scale,
          .cap = op.cap,
          .slopes = op.slopes ? op.slopes + head : nullptr,
          .bias = op.bias ? op.bias + head * (op.behind + 1 + op.ahead) : nullptr,
          .behind = op.behind,
          .ahead = op.ahead};
}

bool Executor::share_keys(const Attending& op, int64_t items) {
  const int64_t pieces = kItemsPerThread * pool_.threads();
  if (items >= pieces) return false;
  int64_t floats = 0, most_segments = 0;
  key_ranges_.clear();
  item_partials_.clear();
  for (int64_t item = 0; item < items; ++item) {
    const AttentionTile tile = attention_tile(op, item);
    const int64_t size = partial_floats(tile.cache, tile.queries * tile.group), segments = tile.segments();
    if (floats + segments * size > partial_floats_) return false;
    item_partials_.push_back(partials_ + floats);
    const int64_t grain = std::max<int64_t>(1, segments * items / pieces);
    for (int64_t i = 0; i < segments; i += grain) {
      const int64_t begin = tile.first_segment() + i;
      key_ranges_.push_back({item, begin, begin + std::min(grain, segments - i), partials_ + floats + i * size});
    }
    floats += segments * size;
    most_segments = std::max(most_segments, segments);
  }
  if (most_segments == 1) return false;
  pool_.for_ranges(static_cast<int64_t>(key_ranges_.size()), 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) {
      const KeyRange& range = key_ranges_[static_cast<size_t>(i)];
      attention_.attend_segments(attention_tile(op, range.item), range.begin, range.end, range.partials,
                                 scratch_.threads[static_cast<size_t>(thread)]);
    }
  });
  pool_.for_ranges(items, std::max<int64_t>(1, kSharedFloats * items / floats), [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item)
      attention_.finish(attention_tile(op, item), item_partials_[static_cast<size_t>(item)]);
  });
  return true;
}

void Executor::attend(const Attending& op, bool in_pairs) {
  int64_t multiplies = 0;
  for (const QueryTile& tile : tiles_) {
    const int64_t keys = tile.keys < 0 ? tile.position + tile.count : tile.keys;
    multiplies += tile.count * (op.window < 0 ? keys : std::min(keys, op.window)) * op.heads * op.head_dim * 2;
  }
  const auto items = static_cast<int64_t>(tiles_.size()) * op.kv_heads;
  const bool alone = pool_.threads() == 1 || multiplies < kSharedMultiplies;
  if (!alone && !in_pairs && share_keys(op, items)) return;
  pool_.for_ranges(items, alone ? items : 1, [&](int64_t begin, int64_t end, int thread) {
    void* scratch = scratch_.threads[static_cast<size_t>(thread)];
    for (int64_t item = begin; item < end; ++item) {
      const AttentionTile tile = attention_tile(op, item);
      if (in_pairs) {
        pairs_->attend(tile, scratch);
      } else {
        attention_.attend(tile, scratch);
      }
    }
  });
}

void Executor::run(const Attention& op, const Prepared&) {
  tiles_.clear();
  for (const Run& each : runs_) add_tiles(each, each.position, -1, batch_.table(each.first), op.heads / op.kv_heads);
  attend({.cache = cache_.get(),
          .layer = op.cache,
          .q = op.q,
          .out = op.out,
          .heads = op.heads,
          .kv_heads = op.kv_heads,
          .head_dim = op.head_dim,
          .scale = op.scale,
          .cap = op.cap,
          .window = op.window,
          .slopes = optional_vector(op.slopes),
          .bias = optional_vector(op.bias),
          .behind = entries(op.bias, op.heads) - 1,
          .ahead = 0});
}

void Executor::run(const CrossAttention& op, const Prepared&) {
  tiles_.clear();
  const auto same_memory = [&](int64_t row, int64_t other, int64_t keys) {
    const int64_t size = memory_cache_->layout().block_size, blocks = (keys + size - 1) / size;
    return batch_.memory_lengths[batch_.sequences[other]] == keys &&
           std::equal(batch_.memory_table(row), batch_.memory_table(row) + blocks, batch_.memory_table(other));
  };
  for (size_t i = 0; i < runs_.size();) {
    Run together = runs_[i];  // neighbours that share a memory, as beams do, read it once
    const int64_t keys = batch_.memory_lengths[batch_.sequences[together.first]];
    for (++i; i < runs_.size() && same_memory(together.first, runs_[i].first, keys); ++i)
      together.count += runs_[i].count;
    add_tiles(together, 0, keys, batch_.memory_table(together.first), op.heads / op.kv_heads);
  }
  keep_weights(op);  // first, as the output may take the queries' place
  attend({.cache = memory_cache_.get(),
          .layer = op.cache,
          .q = op.q,
          .out = op.out,
          .heads = op.heads,
          .kv_heads = op.kv_heads,
          .head_dim = op.head_dim,
          .scale = op.scale,
          .cap = op.cap,
          .window = -1,
          .slopes = nullptr,
          .bias = nullptr,
          .behind = 0,
          .ahead = 0});
}

void Executor::start_keeping_weights() {
  const int64_t pairs = batch_.attention_of_count, tokens = batch_.token_count;
  int64_t keys = 0;
  for (const Run& run : runs_)
    if (pairs > 0) keys = std::max<int64_t>(keys, batch_.memory_lengths[batch_.sequences[run.first]]);
  const int64_t bytes = checked_product("the attention weights", {pairs, tokens, keys, int64_t{sizeof(float)}});
  // The shape last: should memory run out, it still is that of what is there.
  attention_weights_.weights.assign(static_cast<size_t>(bytes) / sizeof(float), 0.f);
  attention_weights_.pairs = pairs;
  attention_weights_.tokens = tokens;
  attention_weights_.keys = keys;
}

// The tiles_ are those of the op, in the order of the batch's rows.
void Executor::keep_weights(const CrossAttention& op) {
  for (int64_t pair = 0; pair < batch_.attention_of_count; ++pair) {
    const int64_t head = batch_.attention_of[2 * pair + 1];
    if (batch_.attention_of[2 * pair] != op.cache || head >= op.heads) continue;
    float* out = attention_weights_.weights.data() + pair * attention_weights_.tokens * attention_weights_.keys;
    pool_.for_ranges(static_cast<int64_t>(tiles_.size()), 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const QueryTile& tile = tiles_[static_cast<size_t>(i)];
        attention_.weigh(memory_cache_->layout(), memory_cache_->layer(op.cache), tile.table, tile.keys,
                         head * op.kv_heads / op.heads, data(op.q, tile.row) + head * op.head_dim, width(op.q),
                         tile.count, op.scale, op.cap, out + tile.row * attention_weights_.keys,
                         attention_weights_.keys);
      }
    });
  }
}

void Executor::run(const SelfAttention& op, const Prepared&) {
  const int64_t reach = (entries(op.bias, op.heads) - 1) / 2;
  const auto blocks = static_cast<int64_t>(step_blocks_.size());
  step_places_.resize(static_cast<size_t>(batch_.token_count));
  for (size_t done = 0; done < runs_.size();) {
    tiles_.clear();
    const int64_t first = runs_[done].first;
    int64_t last = first, taken = 0;
    for (; done < runs_.size(); ++done) {
      const Run& run = runs_[done];
      const int64_t wanted = (run.count + kStepBlock - 1) / kStepBlock;
      if (taken + wanted > blocks) break;
      std::iota(step_places_.begin() + run.first, step_places_.begin() + run.first + run.count, taken * kStepBlock);
      add_tiles(run, 0, run.count, step_blocks_.data() + taken, 1);
      taken += wanted;
      last = run.first + run.count;
    }
    const auto place = [&](int64_t row) { return step_places_[static_cast<size_t>(row)]; };
    if (pairs_) {
      append(*pairs_, *step_cache_, 0, op.k, op.v, first, last, place);
    } else {
      append(attention_, *step_cache_, 0, op.k, op.v, first, last, place);
    }
    attend({.cache = step_cache_.get(),
            .layer = 0,
            .q = op.q,
            .out = op.out,
            .heads = op.heads,
            .kv_heads = op.heads,
            .head_dim = op.head_dim,
            .scale = op.scale,
            .cap = op.cap,
            .window = -1,
            .slopes = nullptr,
            .bias = optional_vector(op.bias),
            .behind = reach,
            .ahead = reach},
           pairs_ != nullptr);
  }
}

}  // namespace cutwork
