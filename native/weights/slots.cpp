// Weights of the encoding `slots`: what must hold for the kernels to trust one, and what one stands for.
#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "weights/refuse.h"
#include "weights/weight.h"

namespace cutwork {
namespace {

#include "kernels/int4/layout.inc"

constexpr int64_t kTake = kStepSlots / kRowTile;  // slots of a row in a step

int64_t window_count(int64_t cols) {
  return (cols + kWindow - 1) / kWindow;
}

// Steps in an entry.
int64_t entry_steps(DType dtype) {
  return dtype == DType::i4 ? 1 : 2;
}

// visit(place, start, columns, codes) for the four slots that a row has of each step: columns count from the start, and
// the code of an empty slot is 0. Places are rows unless those are in an order.
template <class F>
void for_fours(const Weight& weight, const F& visit) {
  const Slots& slots = weight.slots;
  const int64_t steps = entry_steps(weight.dtype), starts = step_starts(slots.form);
  const auto* entries = static_cast<const uint8_t*>(weight.values);
  for (int64_t tile = 0; tile < tile_count(weight.rows); ++tile) {
    const int64_t begin = slots.begins ? slots.begins[tile] : tile * slots.per_tile;
    const int64_t end = slots.begins ? slots.begins[tile + 1] : begin + slots.per_tile;
    const uint16_t* start = slots.starts + (slots.begins ? begin * steps * starts : 0);
    for (int64_t entry = begin; entry < end; ++entry) {
      const uint8_t* bytes = entries + entry * entry_bytes(weight);
      for (int64_t step = 0; step < steps; ++step, start += starts)
        for (int64_t row = 0; row < kRowTile; ++row) {
          int columns[kTake];
          int8_t codes[kTake];
          for (int64_t i = 0; i < kTake; ++i) {
            const int64_t slot = row * kTake + i;
            columns[i] = slot_column(bytes, slots.form, step, slot);
            codes[i] = weight.dtype == DType::i4 ? static_cast<int8_t>(static_cast<int8_t>(bytes[slot]) >> 4)
                                                 : static_cast<int8_t>(bytes[(1 + step) * kStepSlots + slot]);
          }
          const int64_t own = slots.form == SlotForm::tiles ? 0 : row / kGroupRows;
          visit(tile * kRowTile + row, start[own], columns, codes);
        }
    }
  }
}

// The columns from a start on that a row has had slots for, a bit each.
struct Taken {
  int32_t start = -1;
  uint32_t columns = 0;
};

}  // namespace

// What the int8 kernels need to know of the codes beside them; checks that each stands for a weight of its own, for
// which a row's present window is enough: steps of the same one follow each other.
void OwnedWeight::adopt_slots() {
  view_.slots.starts = starts_.data();
  view_.slots.begins = begins_.empty() ? nullptr : begins_.data();
  if (view_.dtype == DType::i8) row_sums_.reset(new int32_t[static_cast<size_t>(view_.rows)]());
  nonzeros_ = 0;
  std::vector<Taken> rows(static_cast<size_t>(tile_count(view_.rows) * kRowTile));
  for_fours(view_, [&](int64_t row, int64_t start, const int* columns, const int8_t* codes) {
    Taken& before = rows[static_cast<size_t>(row)];
    uint32_t taken = before.start == start ? before.columns : 0;
    int32_t sum = 0, nonzeros = 0;
    for (int64_t i = 0; i < kTake; ++i) {
      if (codes[i] == 0) continue;
      if (row >= view_.rows || start + columns[i] >= view_.cols)
        refuse("a slot stands for a weight beyond the last row or column");
      if (codes[i] == -128) refuse("an int8 weight has the code -128; codes must lie in [-127, 127]");
      const uint32_t column = uint32_t{1} << columns[i];
      if ((taken & column) != 0) refuse("a row has two slots for one column");
      taken |= column;
      sum += codes[i];
      ++nonzeros;
    }
    if (nonzeros == 0) return;
    before = {.start = static_cast<int32_t>(start), .columns = taken};
    nonzeros_ += nonzeros;
    if (view_.dtype == DType::i8) row_sums_[static_cast<size_t>(row)] += sum;
  });
  view_.row_sums = row_sums_.get();
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
  std::vector<int64_t> halves;  // the entries of which a tile's last step fills only the first half
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
      weight.begins_.push_back(weight.begins_.back() + (own + per_entry - 1) / per_entry);
      if (own % per_entry == 0) continue;
      weight.starts_.push_back(weight.starts_.back());
      halves.push_back(weight.begins_.back() - 1);
    }
    entries = weight.begins_.back();
  } else {
    for (int64_t window = 0; window < windows; ++window)
      weight.starts_.insert(weight.starts_.end(), static_cast<size_t>(keep / kTake),
                            static_cast<uint16_t>(window * kWindow));
    const bool half = static_cast<int64_t>(weight.starts_.size()) % per_entry != 0;
    if (half) weight.starts_.push_back(weight.starts_.back());
    view.slots.per_tile = static_cast<int64_t>(weight.starts_.size()) / per_entry;
    entries = tiles * view.slots.per_tile;
    for (int64_t tile = 1; half && tile <= tiles; ++tile) halves.push_back(tile * view.slots.per_tile - 1);
  }
  expect_size("values", values, entries * entry_bytes(view));
  view.values = weight.adopt(std::move(values), 1);
  for (const int64_t entry : halves)  // those who read a tile's steps, and no more, would not see them
    if (const uint8_t* end = static_cast<const uint8_t*>(view.values) + (entry + 1) * kRecordBytes;
        std::any_of(end - kStepSlots, end, [](uint8_t code) { return code != 0; }))
      refuse("a record has codes after its tile's last step");
  weight.nbytes_ += static_cast<int64_t>(weight.starts_.size() * sizeof(uint16_t));
  if (dtype == DType::i4)
    weight.adopt_scales(std::move(scale), scale_type, group_cols, kRunCols);
  else
    weight.adopt_row_scale(std::move(scale));
  weight.adopt_slots();
  return weight;
}

void write_slots(const Weight& weight, int8_t* out) {
  std::memset(out, 0, static_cast<size_t>(weight.rows * weight.cols));
  const int32_t* order = weight.slots.order;
  for_fours(weight, [&](int64_t place, int64_t start, const int* columns, const int8_t* codes) {
    for (int64_t i = 0; i < kTake; ++i)
      if (codes[i] != 0) out[(order ? order[place] : place) * weight.cols + start + columns[i]] = codes[i];
  });
}

}  // namespace cutwork
