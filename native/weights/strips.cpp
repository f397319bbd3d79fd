// Int8 weights brought into the encoding `slots` when they are loaded, whatever their zeros: made of steps that all
// rows of a tile take in the same windows, or of strips of rows, each of which goes on from its next nonzero.
#include <algorithm>
#include <array>
#include <iterator>
#include <vector>

#include "weights/weight.h"

namespace cutwork {
namespace {

constexpr int64_t kTake = kStepSlots / kRowTile;  // slots of a row in a step
constexpr int64_t kSample = 4;                    // panels that tell which way is best for all
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

// The rows of a tile, where kRowTile pointers begin.
using Tile = const Row* const*;

// The steps of `count` rows: each begins at the first column that is left, or of tiles at the window that holds it, and
// all rows take up to kTake of what is left in the window. begin(start) for each step, put(row, i, nonzero) for each of
// its slots that is not empty.
template <class Begin, class Put>
void for_steps(Tile rows, size_t count, int64_t cols, SlotForm form, const Begin& begin, const Put& put) {
  const int64_t window = form == SlotForm::wide ? kWideWindow : kWindow;
  std::array<size_t, kRowTile> next = {};
  for (;;) {
    int64_t start = cols;
    for (size_t r = 0; r < count; ++r)
      if (next[r] < rows[r]->size()) start = std::min<int64_t>(start, (*rows[r])[next[r]].col);
    if (start == cols) return;
    start = form == SlotForm::tiles ? start / window * window : std::max<int64_t>(std::min(start, cols - window), 0);
    begin(start);
    for (size_t r = 0; r < count; ++r) {
      const Row& row = *rows[r];
      size_t& at = next[r];
      for (size_t i = 0; i < kTake && at < row.size() && row[at].col < start + window; ++i, ++at) put(r, i, row[at]);
    }
  }
}

// Records of the parts of a tile, which are strips or the whole: as many as the longest part needs.
int64_t count_records(Tile rows, int64_t cols, SlotForm form) {
  const auto parts = static_cast<size_t>(step_starts(form)), own = kRowTile / parts;
  int64_t most = 0;
  for (size_t part = 0; part < parts; ++part) {
    int64_t steps = 0;
    for_steps(rows + part * own, own, cols, form, [&](int64_t) { ++steps; }, [](size_t, size_t, const Entry&) {});
    most = std::max(most, (steps + 1) / 2);
  }
  return most;
}

// Writes the records of a tile and their starts, where zeros are; returns how many.
int64_t write_records(Tile rows, int64_t cols, SlotForm form, uint8_t* records, uint16_t* starts) {
  const auto parts = static_cast<size_t>(step_starts(form)), own = kRowTile / parts;
  const auto bytes = static_cast<size_t>(record_bytes(form));
  int64_t most = 0;
  for (size_t part = 0; part < parts; ++part) {
    size_t steps = 0;
    int64_t start = 0;
    const auto begin = [&](int64_t at) {
      start = at;
      starts[steps++ * parts + part] = static_cast<uint16_t>(at);
    };
    for_steps(rows + part * own, own, cols, form, begin, [&](size_t r, size_t i, const Entry& nonzero) {
      const size_t step = (steps - 1) % 2, slot = (part * own + r) * kTake + i, strip = slot / kStripSlots;
      uint8_t* record = records + (steps - 1) / 2 * bytes;
      const auto column = static_cast<unsigned>(nonzero.col - start);
      record[slot] |= static_cast<uint8_t>((column & 15) << (4 * step));
      record[(1 + step) * kStepSlots + slot] = static_cast<uint8_t>(nonzero.code);
      if (form == SlotForm::wide)
        record[kRecordBytes + slot % kStripSlots] |= static_cast<uint8_t>(column >> 4 << (7 - 2 * strip - step));
    });
    if (steps % 2 != 0)  // kernels may take the same blocks where starts that never fall are the same
      starts[steps * parts + part] = starts[(steps - 1) * parts + part];
    most = std::max(most, static_cast<int64_t>(steps + 1) / 2);
  }
  return most;
}

// What storing a row's output out of its place takes, in slots of that row.
constexpr double kScatter = 16;

// A way to lay a weight out. An order costs time where outputs are stored, and wide windows one and a half times the
// arithmetic per slot, for which batches and prompts wait: they have to be worth it.
struct Way {
  SlotForm form;
  bool sorted;
  double worth;  // the most of a simpler one's bytes that it may take
  int64_t records = 0;

  int64_t starts() const { return records * 2 * step_starts(form); }
  int64_t bytes() const { return records * record_bytes(form) + starts() * int64_t{sizeof(uint16_t)}; }
};

// kSortedRows rows and those that are missing, in place and the ones with most nonzeros first.
struct Panel {
  std::vector<Row> rows = std::vector<Row>(kSortedRows);
  std::array<const Row*, kSortedRows> in_place, sorted;

  void load(const Weight& weight, int64_t first) {
    list_rows(weight, first, rows);
    for (size_t r = 0; r < rows.size(); ++r) in_place[r] = &rows[r];
    sorted = in_place;
    std::stable_sort(sorted.begin(), sorted.end(), [](const Row* a, const Row* b) { return a->size() > b->size(); });
  }
  Tile tile(int64_t row, bool in_order) const { return &(in_order ? sorted : in_place)[static_cast<size_t>(row)]; }
};

}  // namespace

std::optional<OwnedWeight> OwnedWeight::in_slots() const {
  if (view_.dtype != DType::i8 || (view_.encoding != Encoding::bitmask && view_.encoding != Encoding::dense))
    return std::nullopt;
  const int64_t rows = view_.rows, cols = view_.cols;
  const auto for_tiles = [&](int64_t stride, const auto& visit) {
    Panel panel;
    for (int64_t first = 0; first < rows; first += stride) {
      panel.load(view_, first);
      for (int64_t row = 0; row < std::min(rows - first, kSortedRows); row += kRowTile) visit(panel, first, row);
    }
  };
  const double of_row = static_cast<double>(nonzeros()) / static_cast<double>(std::max<int64_t>(rows, 1));
  const double sorted = 1 - kScatter / std::max(of_row, kScatter), wide = 0.8;
  Way ways[] = {{SlotForm::tiles, false, 1},
                {SlotForm::strips, false, 1},
                {SlotForm::strips, true, sorted},
                {SlotForm::wide, false, wide},
                {SlotForm::wide, true, wide * sorted}};
  const int64_t panels = (rows + kSortedRows - 1) / kSortedRows;
  for_tiles((panels + kSample - 1) / kSample * kSortedRows, [&](const Panel& panel, int64_t, int64_t row) {
    for (Way& way : ways) way.records += count_records(panel.tile(row, way.sorted), cols, way.form);
  });
  Way way = *std::min_element(std::begin(ways), std::end(ways), [](const Way& a, const Way& b) {
    return static_cast<double>(a.bytes()) * b.worth < static_cast<double>(b.bytes()) * a.worth;
  });
  way.records = 0;
  for_tiles(kSortedRows, [&](const Panel& panel, int64_t, int64_t row) {
    way.records += count_records(panel.tile(row, way.sorted), cols, way.form);
  });
  OwnedWeight weight;
  Weight& view = weight.view_;
  view = view_;
  view.encoding = Encoding::slots;
  view.mask = nullptr;
  view.offsets = nullptr;
  view.reordered = {};
  view.slots = {};
  view.slots.form = way.form;
  const int64_t bytes = way.records * record_bytes(way.form);
  weight.entries_ = Allocation(std::max<int64_t>(bytes, 1), "a weight in slots",
                               "load with fewer models, or on a machine with more memory");
  weight.starts_.assign(static_cast<size_t>(way.starts()), 0);
  weight.begins_.assign(1, 0);
  for_tiles(kSortedRows, [&](const Panel& panel, int64_t first, int64_t row) {
    const int64_t begin = weight.begins_.back();
    auto* records = reinterpret_cast<uint8_t*>(weight.entries_.data()) + begin * record_bytes(way.form);
    uint16_t* starts = weight.starts_.data() + begin * 2 * step_starts(way.form);
    const Tile tile = panel.tile(row, way.sorted);
    weight.begins_.push_back(begin + write_records(tile, cols, way.form, records, starts));
    for (int64_t r = 0; way.sorted && r < std::min(rows - first - row, kRowTile); ++r)
      weight.order_.push_back(static_cast<int32_t>(first + (tile[r] - panel.rows.data())));
  });
  view.values = weight.entries_.data();
  view.slots.order = weight.order_.empty() ? nullptr : weight.order_.data();
  weight.arrays_ = {};
  for (int64_t place = 0; place < rows; ++place)
    weight.row_scale_.push_back(view_.scale[way.sorted ? weight.order_[static_cast<size_t>(place)] : place]);
  view.scale = weight.row_scale_.data();
  weight.nbytes_ =
      way.bytes() + rows * int64_t{sizeof(float)} + static_cast<int64_t>(weight.order_.size() * sizeof(int32_t));
  weight.adopt_slots();
  return weight;
}

}  // namespace cutwork
