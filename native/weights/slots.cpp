// Weights of the encoding `slots`: what must hold for the kernels to trust one, how one is made of another encoding,
// and what one stands for.
#include <algorithm>
#include <array>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "weights/weight.h"

namespace cutwork {
namespace {

#include "kernels/int4/layout.inc"

constexpr int64_t kTake = kStepSlots / kRowTile;  // slots of a row in a step
constexpr int64_t kStrips = kRowTile / kGroupRows;

[[noreturn]] void refuse(const std::string& sentence) {
  throw std::invalid_argument(sentence);
}

int64_t tile_count(int64_t rows) {
  return (rows + kRowTile - 1) / kRowTile;
}

int64_t window_count(int64_t cols) {
  return (cols + kWindow - 1) / kWindow;
}

// Steps in an entry.
int64_t entry_steps(DType dtype) {
  return dtype == DType::i4 ? 1 : 2;
}

// visit(row, col, code) for every slot that is not empty.
template <class F>
void for_slots(const Weight& weight, const F& visit) {
  const Slots& slots = weight.slots;
  const int64_t steps = entry_steps(weight.dtype), starts = slots.strips ? kStrips : 1;
  const auto* entries = static_cast<const uint8_t*>(weight.values);
  for (int64_t tile = 0; tile < tile_count(weight.rows); ++tile) {
    const int64_t begin = slots.begins ? slots.begins[tile] : tile * slots.per_tile;
    const int64_t end = slots.begins ? slots.begins[tile + 1] : begin + slots.per_tile;
    const uint16_t* start = slots.starts + (slots.begins ? begin * steps * starts : 0);
    for (int64_t entry = begin; entry < end; ++entry) {
      const uint8_t* bytes = entries + entry * entry_bytes(weight.dtype);
      for (int64_t step = 0; step < steps; ++step, start += starts)
        for (int64_t slot = 0; slot < kStepSlots; ++slot) {
          const uint8_t nibbles = bytes[slot];
          const bool int4 = weight.dtype == DType::i4;
          const int column = int4 || step == 0 ? nibbles & 15 : nibbles >> 4;
          const auto code = int4 ? static_cast<int8_t>(static_cast<int8_t>(nibbles) >> 4)
                                 : static_cast<int8_t>(bytes[(1 + step) * kStepSlots + slot]);
          const int64_t row = slot / kTake;
          if (code != 0) visit(tile * kRowTile + row, start[slots.strips ? row / kGroupRows : 0] + column, code);
        }
    }
  }
}

// A nonzero of a row.
struct Entry {
  uint16_t col;
  int8_t code;
};
using Tile = std::array<std::vector<Entry>, kRowTile>;

// The nonzeros of the rows of a tile of an int8 weight, from left to right.
void list_tile(const Weight& weight, int64_t tile, Tile& rows) {
  const auto* codes = static_cast<const int8_t*>(weight.values);
  for (int64_t r = 0; r < kRowTile; ++r) rows[static_cast<size_t>(r)].clear();
  const int64_t first = tile * kRowTile, count = std::min(weight.rows - first, kRowTile);
  if (weight.encoding == Encoding::dense) {
    for (int64_t r = 0; r < count; ++r)
      for (int64_t col = 0; col < weight.cols; ++col)
        if (const int8_t code = codes[(first + r) * weight.cols + col]; code != 0)
          rows[static_cast<size_t>(r)].push_back({static_cast<uint16_t>(col), code});
    return;
  }
  const int64_t blocks = (weight.cols + kBlockCols - 1) / kBlockCols;
  for (int64_t group = first / kGroupRows; group * kGroupRows < first + count; ++group) {
    const uint64_t* words = weight.mask + group * blocks * kGroupRows;
    const int8_t* code = codes + weight.offsets[group];
    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t r = 0; r < kGroupRows; ++r, ++words) {
        auto& row = rows[static_cast<size_t>(group * kGroupRows - first + r)];
        for (uint64_t rest = *words; rest != 0; rest &= rest - 1)
          row.push_back({static_cast<uint16_t>(block * kBlockCols + __builtin_ctzll(rest)), *code++});
      }
  }
}

// Steps as they are made: of a strip's or a tile's rows.
struct Step {
  uint16_t start;
  uint8_t columns[kStepSlots] = {};
  int8_t codes[kStepSlots] = {};
};

// The steps of `rows` rows from `first` on, each beginning at the first column that is left or, where `aligned`, at the
// window that holds it; all rows of a step take up to kTake of what is left in kWindow columns.
void make_steps(const Tile& tile, int64_t first, int64_t rows, int64_t cols, bool aligned, std::vector<Step>& steps) {
  std::array<size_t, kRowTile> next = {};
  steps.clear();
  for (;;) {
    int64_t start = cols;
    for (int64_t r = first; r < first + rows; ++r) {
      const auto& row = tile[static_cast<size_t>(r)];
      if (next[static_cast<size_t>(r)] < row.size())
        start = std::min<int64_t>(start, row[next[static_cast<size_t>(r)]].col);
    }
    if (start == cols) return;
    start = aligned ? start / kWindow * kWindow : std::max<int64_t>(std::min(start, cols - kWindow), 0);
    Step step = {};
    step.start = static_cast<uint16_t>(start);
    for (int64_t r = first; r < first + rows; ++r) {
      const auto& row = tile[static_cast<size_t>(r)];
      size_t& at = next[static_cast<size_t>(r)];
      for (int64_t i = 0; i < kTake && at < row.size() && row[at].col < start + kWindow; ++i, ++at) {
        step.columns[r * kTake + i] = static_cast<uint8_t>(row[at].col - start);
        step.codes[r * kTake + i] = row[at].code;
      }
    }
    steps.push_back(step);
  }
}

// Entries of int8, as they grow.
struct Records {
  std::vector<uint8_t> bytes;
  std::vector<uint16_t> starts;
  std::vector<int64_t> begins = {0};

  // `parts`: the steps of each strip, or of the whole tile.
  void add(const std::vector<std::vector<Step>>& parts) {
    size_t count = 0;
    for (const auto& part : parts) count = std::max(count, part.size());
    for (size_t i = 0; i < count; i += 2) {
      uint8_t record[kRecordBytes] = {};
      for (size_t s = 0; s < 2; ++s)
        for (const auto& part : parts) {
          const bool there = i + s < part.size();
          starts.push_back(there ? part[i + s].start : 0);
          for (size_t slot = 0; there && slot < kStepSlots; ++slot) {
            record[slot] |= static_cast<uint8_t>(part[i + s].columns[slot] << (4 * s));
            record[(1 + s) * kStepSlots + slot] |= static_cast<uint8_t>(part[i + s].codes[slot]);
          }
        }
      bytes.insert(bytes.end(), record, record + kRecordBytes);
    }
    begins.push_back(static_cast<int64_t>(bytes.size()) / kRecordBytes);
  }
};

}  // namespace

// What the int8 kernels need to know of the codes beside them; checks that none lies outside the weight.
void OwnedWeight::adopt_slots() {
  view_.slots.starts = starts_.data();
  view_.slots.begins = begins_.empty() ? nullptr : begins_.data();
  const int64_t segments = view_.slots.segments;
  if (view_.dtype == DType::i8) row_sums_.reset(new int32_t[static_cast<size_t>(view_.rows)]());
  code_sums_.assign(static_cast<size_t>(tile_count(view_.rows) * segments * kRowTile), 0);
  std::vector<int32_t> segment_of;
  for (int64_t col = 0, segment = 0; segments > 0 && col < view_.cols; ++segment) {
    const int64_t end = segment_end(view_, col);
    segment_of.insert(segment_of.end(), static_cast<size_t>(end - col), static_cast<int32_t>(segment));
    col = end;
  }
  nonzeros_ = 0;
  for_slots(view_, [&](int64_t row, int64_t col, int8_t code) {
    if (row >= view_.rows || col >= view_.cols) refuse("a slot stands for a weight beyond the last row or column");
    if (code == -128) refuse("an int8 weight has the code -128; codes must lie in [-127, 127]");
    ++nonzeros_;
    if (view_.dtype == DType::i8) {
      row_sums_[static_cast<size_t>(row)] += code;
    } else {
      const int64_t segment = segment_of[static_cast<size_t>(col)];
      const int64_t at = (row / kRowTile * segments + segment) * kRowTile + row % kRowTile;
      code_sums_[static_cast<size_t>(at)] = static_cast<int16_t>(code_sums_[static_cast<size_t>(at)] + code);
    }
  });
  view_.row_sums = row_sums_.get();
  view_.slots.code_sums = code_sums_.empty() ? nullptr : code_sums_.data();
}

OwnedWeight OwnedWeight::slots(DType dtype, int64_t rows, int64_t cols, Array values, int64_t keep,
                               std::optional<Array> steps, Array scale, ScaleType scale_type, int64_t group_cols) {
  check_shape(rows, cols);
  if (dtype != DType::i8 && dtype != DType::i4) refuse("only int8 and int4 weights are stored in slots");
  if (!steps && keep != 4 && keep != 8 && keep != 12) refuse("slots keep 4, 8 or 12 of 16 columns");
  const int64_t tiles = tile_count(rows), windows = window_count(cols);
  OwnedWeight weight;
  Weight& view = weight.view_;
  view.encoding = Encoding::slots;
  view.dtype = dtype;
  view.rows = rows;
  view.cols = cols;
  const int64_t per_entry = entry_steps(dtype);
  int64_t entries;
  if (steps) {
    expect_size("steps", *steps, tiles * windows);
    const auto* counts = static_cast<const uint8_t*>(steps->data);
    weight.begins_.assign(1, 0);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const size_t before = weight.starts_.size();
      for (int64_t window = 0; window < windows; ++window) {
        const uint8_t count = counts[tile * windows + window];
        if (count > kWindow / kTake) refuse("a window of 16 columns has more than 4 steps");
        weight.starts_.insert(weight.starts_.end(), count, static_cast<uint16_t>(window * kWindow));
      }
      const auto own = static_cast<int64_t>(weight.starts_.size() - before);
      if (own % per_entry != 0) weight.starts_.push_back(own > 0 ? weight.starts_.back() : 0);
      weight.begins_.push_back(weight.begins_.back() + (own + per_entry - 1) / per_entry);
    }
    entries = weight.begins_.back();
  } else {
    for (int64_t window = 0; window < windows; ++window)
      weight.starts_.insert(weight.starts_.end(), static_cast<size_t>(keep / kTake),
                            static_cast<uint16_t>(window * kWindow));
    if (static_cast<int64_t>(weight.starts_.size()) % per_entry != 0) weight.starts_.push_back(weight.starts_.back());
    view.slots.per_tile = static_cast<int64_t>(weight.starts_.size()) / per_entry;
    entries = tiles * view.slots.per_tile;
  }
  expect_size("values", values, entries * entry_bytes(dtype));
  view.values = weight.adopt(std::move(values), 1);
  weight.nbytes_ += static_cast<int64_t>(weight.starts_.size() * sizeof(uint16_t));
  if (dtype == DType::i4)
    weight.adopt_scales(std::move(scale), scale_type, group_cols, kWindow);
  else
    weight.adopt_row_scale(std::move(scale));
  if (dtype == DType::i4)
    for (int64_t col = 0; col < cols; col = segment_end(view, col)) ++view.slots.segments;
  weight.adopt_slots();
  return weight;
}

std::optional<OwnedWeight> OwnedWeight::in_slots() const {
  if (view_.dtype != DType::i8 || (view_.encoding != Encoding::bitmask && view_.encoding != Encoding::dense))
    return std::nullopt;
  // Windows that stand where 16 begins, all strips alike: no empty slots for masks that keep n of 16. Else each strip
  // of rows goes on from its next nonzero.
  Records aligned, sliding;
  Tile tile;
  std::vector<std::vector<Step>> whole(1), strips(kStrips);
  for (int64_t t = 0; t < tile_count(view_.rows); ++t) {
    list_tile(view_, t, tile);
    make_steps(tile, 0, kRowTile, view_.cols, true, whole[0]);
    aligned.add(whole);
    for (int64_t s = 0; s < kStrips; ++s)
      make_steps(tile, s * kGroupRows, kGroupRows, view_.cols, false, strips[static_cast<size_t>(s)]);
    sliding.add(strips);
  }
  const auto size = [](const Records& r) { return r.bytes.size() + 2 * r.starts.size(); };
  const bool strips_win = size(sliding) < size(aligned);
  Records& best = strips_win ? sliding : aligned;
  OwnedWeight weight;
  Weight& view = weight.view_;
  view = view_;
  view.encoding = Encoding::slots;
  view.mask = nullptr;
  view.offsets = nullptr;
  view.reordered = {};
  view.slots = {};
  view.slots.strips = strips_win;
  const std::string advice = "; load with fewer models, or on a machine with more memory";
  weight.entries_ =
      Allocation(static_cast<int64_t>(std::max<size_t>(best.bytes.size(), 1)), "a weight in slots", advice);
  if (!best.bytes.empty()) std::memcpy(weight.entries_.data(), best.bytes.data(), best.bytes.size());
  view.values = weight.entries_.data();
  weight.starts_ = std::move(best.starts);
  weight.begins_ = std::move(best.begins);
  weight.arrays_ = {};
  weight.row_scale_.assign(view_.scale, view_.scale + view_.rows);
  view.scale = weight.row_scale_.data();
  weight.nbytes_ = static_cast<int64_t>(size(best)) + view.rows * int64_t{sizeof(float)};
  weight.adopt_slots();
  return weight;
}

void write_slots(const Weight& weight, int8_t* out) {
  std::memset(out, 0, static_cast<size_t>(weight.rows * weight.cols));
  for_slots(weight, [&](int64_t row, int64_t col, int8_t code) { out[row * weight.cols + col] = code; });
}

}  // namespace cutwork
