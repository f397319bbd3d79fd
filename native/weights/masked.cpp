// Weights with a mask: of values, or of blocks of four.
#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "kernels/isa.h"
#include "kernels/tuning.h"
#include "weights/refuse.h"
#include "weights/weight.h"

namespace cutwork {
namespace {

#include "kernels/mask.inc"

// Whether bits are set for rows or columns that do not exist.
bool has_dead_bits(const Weight& weight, int64_t group) {
  const int64_t blocks = (weight.cols + kBlockCols - 1) / kBlockCols;
  const uint64_t* words = weight.mask + group * blocks * kGroupRows;
  const int64_t last = (blocks - 1) * kGroupRows, used = weight.cols - (blocks - 1) * kBlockCols;
  for (int64_t r = 0; r < kGroupRows && used < kBlockCols; ++r)
    if (words[last + r] >> used != 0) return true;
  for (int64_t r = weight.rows - group * kGroupRows; r < kGroupRows; ++r)
    for (int64_t block = 0; block < blocks; ++block)
      if (words[block * kGroupRows + r] != 0) return true;
  return false;
}

void check_mask(const Weight& weight, int64_t nonzeros) {
  const int64_t groups = (weight.rows + kGroupRows - 1) / kGroupRows;
  const int64_t words = (weight.cols + kBlockCols - 1) / kBlockCols * kGroupRows;
  const InspectKernels& kernels = chosen_isa().kernels.inspect;
  if (weight.offsets[0] != 0) refuse("offsets begin at " + std::to_string(weight.offsets[0]) + ", expected 0");
  uint64_t counts[2] = {};
  for (int64_t group = 0; group < groups; ++group) {
    if (has_dead_bits(weight, group))
      refuse("the mask has bits beyond the weight's shape " + shape_text(weight.rows, weight.cols));
    kernels.count_bits(weight.mask + group * words, words, counts);
    const uint64_t count = counts[0] + counts[1];
    if (weight.offsets[group + 1] != count)
      refuse("row group " + std::to_string(group) + " ends at offset " + std::to_string(weight.offsets[group + 1]) +
             ", but the mask has " + std::to_string(count) + " nonzeros up to there");
  }
  if (counts[0] + counts[1] != static_cast<uint64_t>(nonzeros))
    refuse("values hold " + std::to_string(nonzeros) + " nonzeros, but the mask has " +
           std::to_string(counts[0] + counts[1]));
}

// Bits of mask word (block, r of group) that stand for columns and a row that exist.
uint64_t live_bits(const Weight& weight, const MaskShape& shape, int64_t row, int64_t block) {
  if (row >= weight.rows) return 0;
  const int64_t bits = kBlockCols / shape.cols;
  const int64_t left = (weight.cols - block * kBlockCols + shape.cols - 1) / shape.cols;
  return left >= 64 ? ~uint64_t{0} : (uint64_t{1} << std::min(left, bits)) - 1;
}

// check_mask for the encodings of blocks.
void check_block_mask(const Weight& weight, int64_t nonzeros) {
  const MaskShape shape = mask_shape(weight.encoding);
  const int64_t groups = (weight.rows + kGroupRows - 1) / kGroupRows;
  const int64_t blocks = (weight.cols + kBlockCols - 1) / kBlockCols;
  if (weight.offsets[0] != 0) refuse("offsets begin at " + std::to_string(weight.offsets[0]) + ", expected 0");
  uint64_t count = 0;
  const char* next = reinterpret_cast<const char*>(weight.mask);
  for (int64_t group = 0; group < groups; ++group) {
    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t r = 0; r < shape.words; ++r, next += shape.bytes) {
        uint64_t word = 0;  // the bytes are little-endian
        std::memcpy(&word, next, static_cast<size_t>(shape.bytes));
        if (word & ~live_bits(weight, shape, group * kGroupRows + r, block))
          refuse("the mask has bits beyond the weight's shape " + shape_text(weight.rows, weight.cols));
        count += static_cast<uint64_t>(__builtin_popcountll(word) * shape.values);
      }
    if (weight.offsets[group + 1] != count)
      refuse("row group " + std::to_string(group) + " ends at offset " + std::to_string(weight.offsets[group + 1]) +
             ", but the mask has " + std::to_string(count) + " nonzeros up to there");
  }
  if (count != static_cast<uint64_t>(nonzeros))
    refuse("values hold " + std::to_string(nonzeros) + " nonzeros, but the mask has " + std::to_string(count));
}

// f(row, column, value) for each value of a weight with a mask, in order; some lie beyond its shape.
template <class F>
void for_each_value(const Weight& weight, int64_t element, const F& f) {
  const char* value = static_cast<const char*>(weight.values);
  const int64_t blocks = (weight.cols + kBlockCols - 1) / kBlockCols;
  for (int64_t row = 0; row < weight.rows; row += kGroupRows)
    for (int64_t block = 0; block < blocks; ++block) {
      uint64_t words[kGroupRows];
      mask_words(weight, row / kGroupRows * blocks + block, words);
      for (int64_t r = 0; r < kGroupRows; ++r)
        for (uint64_t rest = words[r]; rest != 0; rest &= rest - 1, value += element)
          f(row + r, block * kBlockCols + __builtin_ctzll(rest), value);
    }
}

// The parts of blocks that reach beyond the weight must be zero.
void check_beyond(const Weight& weight, int64_t element) {
  static const char zeros[8] = {};
  for_each_value(weight, element, [&](int64_t row, int64_t col, const char* value) {
    if ((row >= weight.rows || col >= weight.cols) && std::memcmp(value, zeros, static_cast<size_t>(element)) != 0)
      refuse("a block has values beyond the weight's shape " + shape_text(weight.rows, weight.cols));
  });
}

}  // namespace

OwnedWeight OwnedWeight::masked(Encoding encoding, DType dtype, int64_t rows, int64_t cols, Array values, Array mask,
                                Array offsets, std::optional<Array> scale) {
  check_shape(rows, cols);
  const MaskShape shape = mask_shape(encoding);
  const int64_t groups = (rows + kGroupRows - 1) / kGroupRows;
  const int64_t blocks = (cols + kBlockCols - 1) / kBlockCols;
  expect_size("mask", mask, groups * blocks * shape.words);
  expect_size("offsets", offsets, groups + 1);
  const int64_t element = element_size(dtype), padding = kTailBytes / element;
  if (values.size < padding) refuse("values lack their " + std::to_string(kTailBytes) + " bytes of padding");
  const int64_t nonzeros = values.size - padding;
  OwnedWeight weight;
  weight.view_.encoding = encoding;
  weight.view_.dtype = dtype;
  weight.view_.rows = rows;
  weight.view_.cols = cols;
  weight.view_.mask = static_cast<const uint64_t*>(weight.adopt(std::move(mask), shape.bytes));
  weight.view_.offsets = static_cast<const uint64_t*>(weight.adopt(std::move(offsets), sizeof(uint64_t)));
  if (encoding == Encoding::bitmask)
    check_mask(weight.view_, nonzeros);
  else
    check_block_mask(weight.view_, nonzeros);
  weight.view_.values = weight.adopt(std::move(values), element);
  if (encoding != Encoding::bitmask) check_beyond(weight.view_, element);
  weight.adopt_scale(std::move(scale));
  return weight;
}

void write_masked(const Weight& weight, void* out) {
  const int64_t element = element_size(weight.dtype);
  char* bytes = static_cast<char*>(out);
  std::memset(bytes, 0, static_cast<size_t>(weight.rows * weight.cols * element));
  for_each_value(weight, element, [&](int64_t row, int64_t col, const char* value) {
    if (row < weight.rows && col < weight.cols)
      std::memcpy(bytes + (row * weight.cols + col) * element, value, static_cast<size_t>(element));
  });
}

}  // namespace cutwork
