// What each kind of op does.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "runtime/executor.h"

namespace cutwork {
namespace {

// Elementwise work from which waking another thread pays, and attention's, in multiply-adds.
constexpr int64_t kSharedFloats = 16384;
constexpr int64_t kSharedMultiplies = 100000;
constexpr int64_t kItemsPerThread = 4;  // pieces of attention from which the threads need no smaller ones

}  // namespace

template <class Job>
void Executor::per_token(int64_t count, int64_t work, const Job& job) {
  pool_.for_ranges(count, std::max<int64_t>(1, kSharedFloats / work), [&](int64_t begin, int64_t end, int) {
    for (int64_t token = begin; token < end; ++token) job(token);
  });
}

int64_t Executor::rows(int64_t buffer) const {
  return plan_.buffers[static_cast<size_t>(buffer)].wanted_rows ? batch_.wanted_count : batch_.token_count;
}

// Offsets count floats per row, so the buffers of a small step lie close together.
float* Executor::data(int64_t buffer) const {
  const int64_t most_rows = std::max(batch_.token_count, batch_.wanted_count);
  return reinterpret_cast<float*>(arena_.data()) + plan_.buffers[static_cast<size_t>(buffer)].offset * most_rows;
}

void Executor::compute_angles() {
  for (const Angles& each : angles_) {
    const float* inv_freq = vector(each.inv_freq);
    per_token(batch_.token_count, 32 * each.half, [&](int64_t t) {
      const auto position = static_cast<float>(batch_.positions[t]);
      for (int64_t i = 0; i < each.half; ++i) {
        // The angle is rounded to f32 as in the models' own training code; its cosine is not rounded twice.
        const double angle = position * inv_freq[i];
        each.cosines[t * each.half + i] = static_cast<float>(std::cos(angle) * each.scaling);
        each.sines[t * each.half + i] = static_cast<float>(std::sin(angle) * each.scaling);
      }
    });
  }
}

void Executor::run(const Embed& op, const Prepared&) {
  const Weight& weight = plan_.weights[static_cast<size_t>(op.weight)];
  per_token(batch_.token_count, weight.cols,
            [&](int64_t t) { elementwise_.embed(weight, batch_.tokens[t], op.scale, data(op.out, t)); });
}

void Executor::run(const RmsNorm& op, const Prepared&) {
  per_token(rows(op.x), width(op.x), [&](int64_t t) {
    elementwise_.rms_norm(data(op.x, t), vector(op.weight), op.eps, width(op.x), op.groups, data(op.out, t));
  });
}

void Executor::run(const LayerNorm& op, const Prepared&) {
  const float* bias = op.bias == -1 ? nullptr : vector(op.bias);
  per_token(rows(op.x), width(op.x), [&](int64_t t) {
    elementwise_.layer_norm(data(op.x, t), vector(op.weight), bias, op.eps, width(op.x), data(op.out, t));
  });
}

void Executor::run(const Slice& op, const Prepared&) {
  const int64_t piece = width(op.out) / op.pieces;
  per_token(rows(op.x), width(op.out), [&](int64_t t) {
    const float* from = data(op.x, t) + op.first;
    float* to = data(op.out, t);
    for (int64_t i = 0; i < op.pieces; ++i, from += op.stride, to += piece)
      std::memcpy(to, from, static_cast<size_t>(piece) * sizeof(float));
  });
}

void Executor::run(const Clip& op, const Prepared&) {
  per_token(rows(op.x), width(op.x),
            [&](int64_t t) { elementwise_.clip(data(op.x, t), op.limit, width(op.x), data(op.out, t)); });
}

void Executor::run(const Linear& op, const Prepared& prepared) {
  for (size_t i = 0; i < op.outs.size(); ++i)
    targets_[i] = {data(op.outs[i]), op.residual == -1 ? nullptr : data(op.residual)};
  prepared.linear->run(linear_, elementwise_, pool_, memory_, data(op.x), rows(op.x), targets_.data());
}

void Executor::run(const Rope& op, const Prepared& prepared) {
  const Angles& angles = angles_[prepared.angles];
  per_token(batch_.token_count, width(op.x), [&](int64_t t) {
    elementwise_.rope(data(op.x, t), angles.cosines + t * angles.half, angles.sines + t * angles.half, op.heads,
                      op.head_dim, angles.half, data(op.out, t));
  });
}

void Executor::run(const KvAppend& op, const Prepared&) {
  const CacheLayout& layout = cache_->layout();
  // Threads share the heads and not the tokens, whose keys are neighbours in memory.
  const int64_t work = batch_.token_count * layout.head_dim;
  pool_.for_ranges(layout.kv_heads, std::max<int64_t>(1, kSharedFloats / work), [&](int64_t begin, int64_t end, int) {
    for (int64_t t = 0; t < batch_.token_count; ++t) {
      const int64_t position = batch_.positions[t];
      char* block = cache_->block(op.cache, batch_.table(t)[position / layout.block_size]);
      for (int64_t head = begin; head < end; ++head) {
        attention_.append(layout, block, head, position % layout.block_size, data(op.k, t) + head * layout.head_dim,
                          data(op.v, t) + head * layout.head_dim);
      }
    }
  });
}

// One kv head of a tile. The tiles with most keys come last in their run: starting with them leaves little to wait for
// at the end.
AttentionTile Executor::attention_tile(const Attention& op, int64_t item) const {
  const QueryTile& tile = tiles_[tiles_.size() - 1 - static_cast<size_t>(item / op.kv_heads)];
  const int64_t kv_head = item % op.kv_heads, row = tile.run->first + tile.first, group = op.heads / op.kv_heads;
  const int64_t column = kv_head * group * op.head_dim;
  return {cache_->layout(),
          cache_->layer(op.cache),
          batch_.table(row),
          kv_head,
          data(op.q, row) + column,
          data(op.out, row) + column,
          width(op.q),
          width(op.out),
          tile.count,
          group,
          tile.run->position + tile.first,
          op.window,
          op.scale,
          op.slopes == -1 ? nullptr : vector(op.slopes) + kv_head * group};
}

bool Executor::share_keys(const Attention& op, int64_t items) {
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
                                 memory_.scratch[static_cast<size_t>(thread)]);
    }
  });
  pool_.for_ranges(items, std::max<int64_t>(1, kSharedFloats * items / floats), [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item)
      attention_.finish(attention_tile(op, item), item_partials_[static_cast<size_t>(item)]);
  });
  return true;
}

void Executor::run(const Attention& op, const Prepared&) {
  const int64_t group = op.heads / op.kv_heads, tile_queries = std::max<int64_t>(1, kQueryRows / group);
  tiles_.clear();
  int64_t multiplies = 0;
  for (const Run& each : runs_) {
    for (int64_t first = 0; first < each.count; first += tile_queries)
      tiles_.push_back({&each, first, std::min(tile_queries, each.count - first)});
    const int64_t keys = each.position + each.count;
    multiplies += each.count * (op.window < 0 ? keys : std::min(keys, op.window)) * op.heads * op.head_dim * 2;
  }
  const auto items = static_cast<int64_t>(tiles_.size()) * op.kv_heads;
  const bool alone = pool_.threads() == 1 || multiplies < kSharedMultiplies;
  if (!alone && share_keys(op, items)) return;
  pool_.for_ranges(items, alone ? items : 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t item = begin; item < end; ++item)
      attention_.attend(attention_tile(op, item), memory_.scratch[static_cast<size_t>(thread)]);
  });
}

void Executor::run(const Gated& op, const Prepared&) {
  per_token(rows(op.gate), width(op.gate), [&](int64_t t) {
    elementwise_.gated(op.activation, data(op.gate, t), data(op.up, t), width(op.gate), data(op.out, t));
  });
}

void Executor::run(const GatherRows& op, const Prepared&) {
  for (int64_t i = 0; i < batch_.wanted_count; ++i)
    std::memcpy(data(op.out, i), data(op.x, batch_.wanted[i]), static_cast<size_t>(width(op.x)) * sizeof(float));
}

void Executor::run(const Logits& op, const Prepared& prepared) {
  targets_[0] = {logits_, nullptr};
  prepared.linear->run(linear_, elementwise_, pool_, memory_, data(op.x), batch_.wanted_count, targets_.data());
}

}  // namespace cutwork
