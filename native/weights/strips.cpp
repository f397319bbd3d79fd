// Int8 weights brought into the encoding `slots` when they are loaded, whatever their zeros: made of steps that all
// rows of a tile take in the same windows, or of strips of rows, each of which goes on from its next nonzero.
#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <vector>

#include "weights/weight.h"

namespace cutwork {
namespace {

constexpr int64_t kTake = kStepSlots / kRowTile;  // slots of a row in a step
constexpr int64_t kStrips = kRowTile / kGroupRows, kStripSlots = kStepSlots / kStrips;

// A nonzero of a row.
struct Entry {
  uint16_t col;
  int8_t code;
};
using Row = std::vector<Entry>;

// The nonzeros of rows from `first` on, from left to right; rows beyond the last have none.
void list_rows(const Weight& weight, int64_t first, std::vector<Row>& rows) {
  const auto* codes = static_cast<const int8_t*>(weight.values);
  for (Row& row : rows) row.clear();
  const int64_t count = std::min(weight.rows - first, static_cast<int64_t>(rows.size()));
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
        Row& row = rows[static_cast<size_t>(group * kGroupRows - first + r)];
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

// The steps of some rows, whose slots begin at `slot`: each begins at the first column that is left, or of tiles at the
// window that holds it; all rows of a step take up to kTake of what is left in the window.
void make_steps(const Row* const* rows, size_t count, size_t slot, int64_t cols, SlotForm form,
                std::vector<Step>& steps) {
  const int64_t window = form == SlotForm::wide ? kWideWindow : kWindow;
  std::array<size_t, kRowTile> next = {};
  steps.clear();
  for (;;) {
    int64_t start = cols;
    for (size_t r = 0; r < count; ++r)
      if (next[r] < rows[r]->size()) start = std::min<int64_t>(start, (*rows[r])[next[r]].col);
    if (start == cols) return;
    start = form == SlotForm::tiles ? start / window * window : std::max<int64_t>(std::min(start, cols - window), 0);
    Step step = {};
    step.start = static_cast<uint16_t>(start);
    for (size_t r = 0; r < count; ++r) {
      const Row& row = *rows[r];
      size_t& at = next[r];
      for (size_t i = 0; i < kTake && at < row.size() && row[at].col < start + window; ++i, ++at) {
        step.columns[slot + r * kTake + i] = static_cast<uint8_t>(row[at].col - start);
        step.codes[slot + r * kTake + i] = row[at].code;
      }
    }
    steps.push_back(step);
  }
}

// Entries of one form, as they grow.
struct Records {
  SlotForm form;
  std::vector<uint8_t> bytes = {};
  std::vector<uint16_t> starts = {};
  std::vector<int64_t> begins = {0};
  std::array<std::vector<Step>, kStrips> parts = {};  // the steps of each strip, or of the whole tile

  // A tile of these rows.
  void add(const Row* const* rows, int64_t cols) {
    const auto strips = static_cast<size_t>(step_starts(form)), own = kRowTile / strips;
    size_t count = 0;
    for (size_t s = 0; s < strips; ++s) {
      make_steps(rows + s * own, own, s * own * kTake, cols, form, parts[s]);
      count = std::max(count, parts[s].size());
    }
    for (size_t i = 0; i < count; i += 2) {
      uint8_t record[kWideBytes] = {};
      for (size_t step = 0; step < 2; ++step)
        for (size_t s = 0; s < strips; ++s) {
          const bool there = i + step < parts[s].size();
          starts.push_back(there ? parts[s][i + step].start : 0);
          if (there) add(parts[s][i + step], step, record);
        }
      bytes.insert(bytes.end(), record, record + record_bytes(form));
    }
    begins.push_back(static_cast<int64_t>(bytes.size()) / record_bytes(form));
  }

  // A step of a part, to a record.
  static void add(const Step& from, size_t step, uint8_t* record) {
    for (size_t slot = 0; slot < kStepSlots; ++slot) {
      const size_t strip = slot / kStripSlots, fifth = from.columns[slot] >> 4;
      record[slot] |= static_cast<uint8_t>((from.columns[slot] & 15) << (4 * step));
      record[(1 + step) * kStepSlots + slot] |= static_cast<uint8_t>(from.codes[slot]);
      record[kRecordBytes + slot % kStripSlots] |= static_cast<uint8_t>(fifth << (7 - 2 * strip - step));
    }
  }

  size_t size() const { return bytes.size() + starts.size() * sizeof(uint16_t); }
};

}  // namespace

std::optional<OwnedWeight> OwnedWeight::in_slots() const {
  if (view_.dtype != DType::i8 || (view_.encoding != Encoding::bitmask && view_.encoding != Encoding::dense))
    return std::nullopt;
  // Tiles have no empty slots for masks that keep n of 16. Strips have few for others where their rows and those of
  // their tile have about as many nonzeros.
  Records tiles = {.form = SlotForm::tiles}, strips = {.form = SlotForm::strips}, wide = {.form = SlotForm::wide};
  std::vector<Row> rows(kSortedRows);
  std::vector<int32_t> order;
  for (int64_t first = 0; first < view_.rows; first += kSortedRows) {
    list_rows(view_, first, rows);
    std::array<const Row*, kSortedRows> in_place, sorted;
    for (size_t r = 0; r < rows.size(); ++r) in_place[r] = &rows[r];
    sorted = in_place;
    const int64_t count = std::min(view_.rows - first, kSortedRows);
    std::stable_sort(sorted.begin(), sorted.begin() + count,
                     [](const Row* a, const Row* b) { return a->size() > b->size(); });
    for (int64_t r = 0; r < count; ++r)
      order.push_back(static_cast<int32_t>(first + (sorted[static_cast<size_t>(r)] - rows.data())));
    for (int64_t r = 0; r < count; r += kRowTile) {
      tiles.add(&in_place[static_cast<size_t>(r)], view_.cols);
      strips.add(&sorted[static_cast<size_t>(r)], view_.cols);
      wide.add(&sorted[static_cast<size_t>(r)], view_.cols);
    }
  }
  Records* best = &tiles;
  for (Records* other : {&strips, &wide})
    if (other->size() < best->size()) best = other;
  OwnedWeight weight;
  Weight& view = weight.view_;
  view = view_;
  view.encoding = Encoding::slots;
  view.mask = nullptr;
  view.offsets = nullptr;
  view.reordered = {};
  view.slots = {};
  view.slots.form = best->form;
  if (best->form != SlotForm::tiles && !std::is_sorted(order.begin(), order.end())) weight.order_ = std::move(order);
  view.slots.order = weight.order_.empty() ? nullptr : weight.order_.data();
  const std::string advice = "; load with fewer models, or on a machine with more memory";
  weight.entries_ =
      Allocation(static_cast<int64_t>(std::max<size_t>(best->bytes.size(), 1)), "a weight in slots", advice);
  if (!best->bytes.empty()) std::memcpy(weight.entries_.data(), best->bytes.data(), best->bytes.size());
  view.values = weight.entries_.data();
  weight.starts_ = std::move(best->starts);
  weight.begins_ = std::move(best->begins);
  weight.arrays_ = {};
  for (int64_t place = 0; place < view_.rows; ++place)
    weight.row_scale_.push_back(view_.scale[view.slots.order ? view.slots.order[place] : place]);
  view.scale = weight.row_scale_.data();
  weight.nbytes_ = static_cast<int64_t>(best->size()) + view.rows * int64_t{sizeof(float)} +
                   static_cast<int64_t>(weight.order_.size() * sizeof(int32_t));
  weight.adopt_slots();
  return weight;
}

}  // namespace cutwork
