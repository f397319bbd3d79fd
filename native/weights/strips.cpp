// Int8 and int4 weights brought into the encoding `slots` when they are loaded, whatever their zeros: made of steps
// that all rows of a tile take in the same windows, or of strips of rows, each of which goes on from its next nonzero.
#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "weights/weight.h"

namespace cutwork {
namespace {

#include "kernels/int4/layout.inc"
#include "weights/int4_codes.inc"

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
  for (Row& row : rows) row.clear();
  const int64_t count = std::min(weight.rows - first, static_cast<int64_t>(rows.size()));
  const auto list = [&](int64_t row, int64_t col, int8_t code) {
    if (code != 0) rows[static_cast<size_t>(row - first)].push_back({static_cast<uint16_t>(col), code});
  };
  if (weight.dtype == DType::i4) {
    for_codes(weight, first / kRowTile, tile_count(first + count), list);
    return;
  }
  const auto* codes = static_cast<const int8_t*>(weight.values);
  if (weight.encoding == Encoding::dense) {
    for (int64_t row = first; row < first + count; ++row)
      for (int64_t col = 0; col < weight.cols; ++col) list(row, col, codes[row * weight.cols + col]);
    return;
  }
  const int64_t blocks = (weight.cols + kBlockCols - 1) / kBlockCols;
  for (int64_t group = first / kGroupRows; group * kGroupRows < first + count; ++group) {
    const uint64_t* words = weight.mask + group * blocks * kGroupRows;
    const int8_t* code = codes + weight.offsets[group];
    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t r = 0; r < kGroupRows; ++r, ++words)
        for (uint64_t rest = *words; rest != 0; rest &= rest - 1)
          list(group * kGroupRows + r, block * kBlockCols + __builtin_ctzll(rest), *code++);
  }
}

// The rows of a tile, where kRowTile pointers begin.
using Tile = const Row* const*;

// Columns [begin, end) whose products are summed together: a segment of int4, all of int8.
struct Span {
  int64_t begin, end;
};

std::vector<Span> spans_of(const Weight& weight) {
  if (weight.dtype == DType::i8) return {{.begin = 0, .end = weight.cols}};
  std::vector<Span> spans;
  for (int64_t col = 0; col < weight.cols; col = spans.back().end)
    spans.push_back({.begin = col, .end = segment_end(weight, col)});
  return spans;
}

// How the steps of tiles are stored.
struct Form {
  SlotForm slots;
  bool nibbles;  // int4, a step in each entry; else int8, two

  int64_t steps() const { return nibbles ? 1 : 2; }
  int64_t bytes() const { return nibbles ? kStepSlots : record_bytes(slots); }
  int64_t starts() const { return steps() * step_starts(slots); }
  size_t parts() const { return static_cast<size_t>(step_starts(slots)); }  // strips, or the whole tile
  int64_t window() const { return slots == SlotForm::wide ? kWideWindow : kWindow; }
};

// Goes through the steps of a tile and returns its entries. In a step each part begins at its first column that is left
// in the span, or of tiles at the window that holds it, and its rows take up to kTake of what is left in the window; it
// is empty if none is left, or of int4 if others are in a block of kBlockCols before its own. begin(step, part, start)
// for each part of each step, put(step, row, i, start, nonzero) for each slot that is not empty.
template <class Begin, class Put>
int64_t for_steps(Tile rows, const std::vector<Span>& spans, int64_t cols, const Form& form, const Begin& begin,
                  const Put& put) {
  const size_t parts = form.parts(), own = kRowTile / parts;
  const int64_t window = form.window(), block = form.nibbles ? kBlockCols : cols;
  std::array<size_t, kRowTile> next = {};  // where in its row each has arrived
  int64_t step = 0, last_start = 0;
  for (const Span span : spans) {
    for (;; ++step) {
      int64_t start[kStrips], least = span.end;
      for (size_t part = 0; part < parts; ++part) {
        start[part] = span.end;
        for (size_t r = part * own; r < (part + 1) * own; ++r)
          if (next[r] < rows[r]->size()) start[part] = std::min<int64_t>(start[part], (*rows[r])[next[r]].col);
        least = std::min(least, start[part]);
      }
      if (least == span.end) break;
      const int64_t own_block = least / block, last = std::max((own_block + 1) * block - window, span.begin);
      const auto placed = [&](int64_t at) {  // inputs are read for a whole window
        return form.slots == SlotForm::tiles ? at / window * window : std::min(at, last);
      };
      least = last_start = placed(least);
      for (size_t part = 0; part < parts; ++part) {
        const bool empty = start[part] == span.end || start[part] / block != own_block;
        const int64_t at = empty ? least : placed(start[part]), end = std::min(at + window, span.end);
        begin(step, part, at);
        for (size_t r = part * own; !empty && r < (part + 1) * own; ++r) {
          const Row& row = *rows[r];
          for (size_t i = 0; i < kTake && next[r] < row.size() && row[next[r]].col < end; ++i, ++next[r])
            put(step, r, i, at, row[next[r]]);
        }
      }
    }
  }
  for (; step % form.steps() != 0; ++step)  // kernels may take the same blocks where starts are the same
    for (size_t part = 0; part < parts; ++part) begin(step, part, last_start);
  return step / form.steps();
}

int64_t count_entries(Tile rows, const std::vector<Span>& spans, int64_t cols, const Form& form) {
  const auto begin = [](int64_t, size_t, int64_t) {};
  return for_steps(rows, spans, cols, form, begin, [](int64_t, size_t, size_t, int64_t, const Entry&) {});
}

// Writes the entries of a tile and their starts, where zeros are; returns how many.
int64_t write_entries(Tile rows, const std::vector<Span>& spans, int64_t cols, const Form& form, uint8_t* entries,
                      uint16_t* starts) {
  const auto begin = [&](int64_t step, size_t part, int64_t start) {
    starts[static_cast<size_t>(step) * form.parts() + part] = static_cast<uint16_t>(start);
  };
  const auto put = [&](int64_t step, size_t r, size_t i, int64_t start, const Entry& nonzero) {
    const size_t half = static_cast<size_t>(step % form.steps()), slot = r * kTake + i, strip = slot / kStripSlots;
    uint8_t* entry = entries + step / form.steps() * form.bytes();
    const auto column = static_cast<unsigned>(nonzero.col - start);
    if (form.nibbles) {
      entry[slot] = static_cast<uint8_t>(column | static_cast<unsigned>(nonzero.code) << 4);
      return;
    }
    entry[slot] |= static_cast<uint8_t>((column & 15) << (4 * half));
    entry[(1 + half) * kStepSlots + slot] = static_cast<uint8_t>(nonzero.code);
    if (form.slots == SlotForm::wide)
      entry[kRecordBytes + slot % kStripSlots] |= static_cast<uint8_t>(column >> 4 << (7 - 2 * strip - half));
  };
  return for_steps(rows, spans, cols, form, begin, put);
}

// What storing a row's output out of its place takes, in slots of that row.
constexpr double kScatter = 16;

// A way to lay a weight out. An order costs time where outputs are stored, and wide windows one and a half times the
// arithmetic per slot, for which batches and prompts wait: they have to be worth it.
struct Way {
  Form form;
  bool sorted;
  double worth;  // the most of a simpler one's bytes that it may take
  int64_t entries = 0;

  int64_t starts() const { return entries * form.starts(); }
  int64_t bytes() const { return entries * form.bytes() + starts() * int64_t{sizeof(uint16_t)}; }
};

// Those that a weight may take, whose rows have so many nonzeros.
std::vector<Way> ways_of(const Weight& weight, double of_row) {
  const double sorted = 1 - kScatter / std::max(of_row, kScatter), wide = 0.8;
  const bool nibbles = weight.dtype == DType::i4;
  std::vector<Way> ways = {{{SlotForm::tiles, nibbles}, false, 1},
                           {{SlotForm::strips, nibbles}, false, 1},
                           {{SlotForm::strips, nibbles}, true, sorted}};
  if (!nibbles) {
    ways.push_back({{SlotForm::wide, nibbles}, false, wide});
    ways.push_back({{SlotForm::wide, nibbles}, true, wide * sorted});
  }
  return ways;
}

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
  const bool nibbles = view_.dtype == DType::i4;
  if (!(nibbles || view_.dtype == DType::i8) ||
      (view_.encoding != Encoding::bitmask && view_.encoding != Encoding::dense))
    return std::nullopt;
  const int64_t rows = view_.rows, cols = view_.cols;
  const std::vector<Span> spans = spans_of(view_);
  const auto for_tiles = [&](int64_t stride, const auto& visit) {
    Panel panel;
    for (int64_t first = 0; first < rows; first += stride) {
      panel.load(view_, first);
      for (int64_t row = 0; row < std::min(rows - first, kSortedRows); row += kRowTile) visit(panel, first, row);
    }
  };
  const double of_row = static_cast<double>(nonzeros()) / static_cast<double>(std::max<int64_t>(rows, 1));
  std::vector<Way> ways = ways_of(view_, of_row);
  const int64_t panels = (rows + kSortedRows - 1) / kSortedRows;
  for_tiles((panels + kSample - 1) / kSample * kSortedRows, [&](const Panel& panel, int64_t, int64_t row) {
    for (Way& way : ways) way.entries += count_entries(panel.tile(row, way.sorted), spans, cols, way.form);
  });
  Way way = *std::min_element(ways.begin(), ways.end(), [](const Way& a, const Way& b) {
    return static_cast<double>(a.bytes()) * b.worth < static_cast<double>(b.bytes()) * a.worth;
  });
  way.entries = 0;
  for_tiles(kSortedRows, [&](const Panel& panel, int64_t, int64_t row) {
    way.entries += count_entries(panel.tile(row, way.sorted), spans, cols, way.form);
  });
  OwnedWeight weight;
  Weight& view = weight.view_;
  view = view_;
  view.encoding = Encoding::slots;
  view.mask = nullptr;
  view.offsets = nullptr;
  view.reordered = {};
  view.slots = {};
  view.slots.form = way.form.slots;
  const int64_t bytes = way.entries * way.form.bytes();
  const int64_t scale_bytes = nibbles ? tile_count(rows) * group_count(view_) * kRowTile * scale_size(view_) : 0;
  weight.entries_ = Allocation(std::max<int64_t>(bytes + scale_bytes, 1), "a weight in slots",
                               "load with fewer models, or on a machine with more memory");
  weight.starts_.assign(static_cast<size_t>(way.starts()), 0);
  weight.begins_.assign(1, 0);
  for_tiles(kSortedRows, [&](const Panel& panel, int64_t first, int64_t row) {
    const int64_t begin = weight.begins_.back();
    auto* entries = reinterpret_cast<uint8_t*>(weight.entries_.data()) + begin * way.form.bytes();
    uint16_t* starts = weight.starts_.data() + begin * way.form.starts();
    const Tile tile = panel.tile(row, way.sorted);
    weight.begins_.push_back(begin + write_entries(tile, spans, cols, way.form, entries, starts));
    for (int64_t r = 0; way.sorted && r < std::min(rows - first - row, kRowTile); ++r)
      weight.order_.push_back(static_cast<int32_t>(first + (tile[r] - panel.rows.data())));
  });
  view.values = weight.entries_.data();
  view.slots.order = weight.order_.empty() ? nullptr : weight.order_.data();
  weight.arrays_ = {};
  const auto row_at = [&](int64_t place) { return way.sorted ? weight.order_[static_cast<size_t>(place)] : place; };
  if (nibbles) {
    char* scales = weight.entries_.data() + bytes;
    view.scales = scales;
    const auto* from = static_cast<const char*>(view_.scales);
    const int64_t size = scale_size(view_), groups = group_count(view_);
    for (int64_t place = 0; place < tile_count(rows) * kRowTile; ++place)
      for (int64_t group = 0; group < groups; ++group) {
        const auto at = [&](int64_t row) {
          return ((row / kRowTile * groups + group) * kRowTile + row % kRowTile) * size;
        };
        std::memcpy(scales + at(place), from + at(place < rows ? row_at(place) : place), static_cast<size_t>(size));
      }
  } else {
    for (int64_t place = 0; place < rows; ++place) weight.row_scale_.push_back(view_.scale[row_at(place)]);
    view.scale = weight.row_scale_.data();
  }
  weight.nbytes_ = way.bytes() + (nibbles ? scale_bytes : rows * int64_t{sizeof(float)}) +
                   static_cast<int64_t>(weight.order_.size() * sizeof(int32_t));
  weight.adopt_slots();
  return weight;
}

}  // namespace cutwork
