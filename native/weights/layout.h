// Where everything is in a weight. No code of its own but constants: every instruction set's file includes it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cutwork {

enum class DType : uint8_t { f32, bf16, i8, i4 };
enum class ScaleType : uint8_t { f32, bf16, f16 };  // of int4 weights, as their checkpoint had them
enum class Encoding : uint8_t { dense, bitmask, block1x4, block4x1, slots };
constexpr DType kDTypes[] = {DType::f32, DType::bf16, DType::i8, DType::i4};
constexpr Encoding kEncodings[] = {Encoding::dense, Encoding::bitmask, Encoding::block1x4, Encoding::block4x1,
                                   Encoding::slots};
constexpr size_t kDTypeCount = sizeof kDTypes, kEncodingCount = sizeof kEncodings;

constexpr int64_t kGroupRows = 4;                 // rows that share one value stream in the bitmask encoding
constexpr int64_t kBlockCols = 64;                // columns covered by one mask word
constexpr int64_t kRowTile = 16;                  // callers split the rows of a linear at multiples of this
constexpr int64_t kRowPanel = 128;                // where zeros are skipped better at multiples of this
constexpr int64_t kTokenTile = 64;                // and the tokens to be rearranged at multiples of this
constexpr int64_t kTailBytes = 64;                // readable bytes after the last value of the encodings with a mask
constexpr int64_t kRunCols = 32;                  // columns of an int4 tile that are stored together
constexpr int64_t kRunWords = 8;                  // of 64 codes, in a run
constexpr int64_t kPairBytes = 64;                // of two words of an int4 tile, zeros included
constexpr int64_t kWindow = 16;                   // columns that the slots of a step may stand for
constexpr int64_t kWideWindow = 32;               // and those of a step of wide strips
constexpr int64_t kStepSlots = 64;                // four of each row of a tile
constexpr int64_t kRecordBytes = 3 * kStepSlots;  // of two int8 steps: columns as nibbles, codes, codes
constexpr int64_t kWideBytes = kRecordBytes + kStepSlots / kGroupRows;  // with a fifth bit of each column
constexpr int64_t kSortedRows = 256;    // that strips are made of in the order of their nonzeros
constexpr int64_t kSegmentCols = 1024;  // whose int4 products are summed as integers, at most
constexpr int64_t kMaxCols = 65536;     // 255 * 127 * kMaxCols still fits in the int32 accumulators

// What `spmm_rows` multiplies, where a weight has been reordered for it: steps of 64 products, each kRowTile
// rows' next columns (in a window of 64) and codes, and the number of its window. Those of row tile t in run r are
// steps [begins[i], begins[i + 1]) for i = order(t, r), see spmm_rows.inc.
struct RowSteps {
  const void* steps;  // of kStepBytes
  const uint16_t* windows;
  const int64_t* begins;
  int64_t count;  // of row tiles times runs
};
constexpr int64_t kStepBytes = 128;

// How the slots of a step have their columns: from one start for the tile, or from one for each strip of four rows, of
// which wide ones reach over kWideWindow columns.
enum class SlotForm : uint8_t { tiles, strips, wide };
constexpr SlotForm kSlotForms[] = {SlotForm::tiles, SlotForm::strips, SlotForm::wide};

// What the kernels of the encoding `slots` need beside `values`. An entry is a record of int8 or a step of int4; the
// slots of a step are columns from `start` on, where `starts` has one for each step of an entry, or one for each step
// and strip. No step of int4 belongs to two segments, and its windows lie in one block of kBlockCols.
struct Slots {
  const uint16_t* starts;  // of all entries, or of one tile's where `begins` is null
  const int64_t* begins;   // the entry at which each tile begins, and the end; null: all have `per_tile`
  int64_t per_tile;
  SlotForm form;
  const int32_t* order;  // the row at each place of the tiles, within the same kSortedRows; null: rows in place
};

// A weight [rows, cols] whose memory somebody else owns and has validated (weight.h).
//
// dense:   `values` is [rows, cols], row-major, unpadded.
// bitmask: `mask` is [ceil(rows/4)][ceil(cols/64)][4] words, bit j of word (g, b, r) standing for row 4g+r, column
//          64b+j; bits beyond `rows` or `cols` are zero. `values` holds the nonzeros in the order of the mask's bits,
//          group after group; group g's begin at element offsets[g], and offsets[ceil(rows/4)] is their number.
// block1x4: like bitmask, but `mask` is [ceil(rows/4)][ceil(cols/64)][4] 16-bit words, bit j of word (g, b, r) standing
//          for columns 64b+4j .. 64b+4j+3 of row 4g+r, which have four values; those beyond `cols` are zero.
// block4x1: like bitmask, but `mask` is [ceil(rows/4)][ceil(cols/64)] words, each standing for all four rows of a
//          group; values of rows beyond `rows` are zero. Both blocks may hold zeros.
// slots:   `values` holds entries, tile of kRowTile rows after tile. A step has four slots of each row of the tile,
//          slot 4r + i belonging to row r: a code and its column's distance from the step's start, a nibble; an empty
//          one has the code 0. i8: records of two steps, 64 bytes of columns (low nibble: the first step's, high: the
//          second's) and 64 codes of each. i4: steps of 64 bytes, column in the low nibble, code -8 .. 7 in the high.
//          Records of wide strips end with 16 bytes of the columns' fifth bits: of slot j of strip p byte j's bit
//          7 - 2p in the first step, and 6 - 2p in the second. With an `order`, `scale` and `row_sums` are in it.
// i8:      value = code * scale[row]; codes lie in [-127, 127]; row_sums[row] is the sum of the row's codes.
// i4:      value = (code - 8) * scale, codes 0 .. 15, in tiles of kRowTile rows as docs/format.md says.
//          dense: `values` is [tiles][runs][4][64] bytes; places that do not exist hold anything.
//          bitmask: `mask` is [tiles][runs][kRunWords], `offsets` counts bytes and has an entry per tile and the end.
//          `scales` is [tiles][ceil(cols/group_cols)][16] of `scale_type`; group_cols is a multiple of kRunCols.
struct Weight {
  Encoding encoding;
  DType dtype;
  int64_t rows, cols;
  const void* values;
  const uint64_t* mask;
  const uint64_t* offsets;
  const float* scale;
  const int32_t* row_sums;
  const void* scales;
  ScaleType scale_type;
  int64_t group_cols;
  RowSteps reordered;  // or null: `spmm_rows` then works them out in each call
  Slots slots;
};

// Bytes of an entry of the encoding `slots`, and how many starts it has.
static constexpr int64_t record_bytes(SlotForm form) {
  return form == SlotForm::wide ? kWideBytes : kRecordBytes;
}
static constexpr int64_t entry_bytes(const Weight& weight) {
  return weight.dtype == DType::i4 ? kStepSlots : record_bytes(weight.slots.form);
}
static constexpr int64_t step_starts(SlotForm form) {
  return form == SlotForm::tiles ? 1 : kRowTile / kGroupRows;
}
static constexpr int64_t entry_starts(const Weight& weight) {
  return (weight.dtype == DType::i4 ? 1 : 2) * step_starts(weight.slots.form);
}

// The column that a slot of a record's step stands for, from its start.
static constexpr int slot_column(const uint8_t* record, SlotForm form, int64_t step, int64_t slot) {
  const int low = step == 0 ? record[slot] & 15 : record[slot] >> 4;
  if (form != SlotForm::wide) return low;
  constexpr int64_t kStripSlots = kStepSlots / kGroupRows;
  const int64_t bit = 7 - 2 * (slot / kStripSlots) - step;
  return low + 16 * (record[kRecordBytes + slot % kStripSlots] >> bit & 1);
}

// The prepared input that a weight reads.
static constexpr DType input_dtype(Encoding encoding, DType dtype) {
  return encoding == Encoding::slots ? DType::i8 : dtype;
}

// Where the segment of an int4 weight that begins at a column ends: with its group, but kSegmentCols at the latest.
static constexpr int64_t segment_end(const Weight& weight, int64_t col) {
  const int64_t group_end = (col / weight.group_cols + 1) * weight.group_cols, most = (col | (kSegmentCols - 1)) + 1;
  const int64_t end = group_end < most ? group_end : most;
  return end < weight.cols ? end : weight.cols;
}

// What the mask of an encoding looks like.
struct MaskShape {
  int64_t words;   // per group of rows and block of columns
  int64_t bytes;   // of a word
  int64_t values;  // per bit
  int64_t cols;    // that a bit stands for
};

static constexpr MaskShape mask_shape(Encoding encoding) {
  if (encoding == Encoding::block1x4) return {.words = kGroupRows, .bytes = 2, .values = 4, .cols = 4};
  if (encoding == Encoding::block4x1) return {.words = 1, .bytes = 8, .values = kGroupRows, .cols = 1};
  return {.words = kGroupRows, .bytes = 8, .values = 1, .cols = 1};
}

// Bytes of mask per group of rows and block of columns, which are 256 positions.
static constexpr int64_t mask_bytes(Encoding encoding) {
  return mask_shape(encoding).words * mask_shape(encoding).bytes;
}

// Bytes of mask per position of a weight.
static constexpr double mask_density(Encoding encoding) {
  return static_cast<double>(mask_bytes(encoding)) / static_cast<double>(kGroupRows * kBlockCols);
}

static constexpr int64_t tile_count(int64_t rows) {
  return (rows + kRowTile - 1) / kRowTile;
}

// How many rows share one stream of values, which is an entry of `offsets`.
static constexpr int64_t stream_rows(DType dtype) {
  return dtype == DType::i4 ? kRowTile : kGroupRows;
}

}  // namespace cutwork
