#include <algorithm>
#include <cmath>
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

std::string shape_text(int64_t rows, int64_t cols) {
  return "[" + std::to_string(rows) + ", " + std::to_string(cols) + "]";
}

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

// In parts whose counts fit into a lane of the values' width, so that as many are compared at a time as there are
// lanes.
template <class T>
int64_t count_nonzeros(const T* values, int64_t size, T bits) {
  constexpr int64_t kPart = sizeof(T) == 1 ? 240 : 4096;
  int64_t count = 0;
  for (int64_t begin = 0; begin < size; begin += kPart) {
    const int64_t end = std::min(begin + kPart, size);
    T part = 0;
    for (int64_t i = begin; i < end; ++i) part = static_cast<T>(part + static_cast<T>((values[i] & bits) != 0));
    count += part;
  }
  return count;
}

}  // namespace

void expect_size(const char* what, const Array& array, int64_t expected) {
  if (array.size != expected)
    refuse(std::string(what) + " has " + std::to_string(array.size) + " elements, expected " +
           std::to_string(expected));
}

void check_shape(int64_t rows, int64_t cols) {
  if (rows < 1 || cols < 1) refuse("a weight of shape " + shape_text(rows, cols) + " is empty");
  if (cols > kMaxCols)
    refuse("a weight of shape " + shape_text(rows, cols) + " has more than " + std::to_string(kMaxCols) + " columns");
  int64_t bytes;
  if (__builtin_mul_overflow(rows, cols, &bytes) || __builtin_mul_overflow(bytes, int64_t{8}, &bytes) ||
      rows > INT64_MAX / 64)
    refuse("a weight of shape " + shape_text(rows, cols) + " does not fit in memory");
}

int64_t element_size(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return 4;
    case DType::bf16:
      return 2;
    case DType::i8:
    case DType::i4:
      break;
  }
  return 1;
}

const char* encoding_name(Encoding encoding) {
  switch (encoding) {
    case Encoding::dense:
      return "dense";
    case Encoding::bitmask:
      return "bitmask";
    case Encoding::block1x4:
      return "block1x4";
    case Encoding::block4x1:
      return "block4x1";
    case Encoding::slots:
      break;
  }
  return "slots";
}

const char* form_name(SlotForm form) {
  return form == SlotForm::tiles ? "tiles" : form == SlotForm::strips ? "strips" : "wide";
}

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "f32";
    case DType::bf16:
      return "bf16";
    case DType::i4:
      return "i4";
    case DType::i8:
      break;
  }
  return "i8";
}

// Keeps the array and returns its data, copied first if it does not lie at a multiple of its element's size.
const void* OwnedWeight::adopt(Array array, int64_t element) {
  const int64_t bytes = array.size * element;
  nbytes_ += bytes;
  if (reinterpret_cast<uintptr_t>(array.data) % static_cast<uintptr_t>(element) != 0) {
    std::shared_ptr<char[]> copy(new char[static_cast<size_t>(bytes)]);
    std::memcpy(copy.get(), array.data, static_cast<size_t>(bytes));
    array.data = copy.get();
    array.owner = copy;
  }
  arrays_.push_back(array);
  return array.data;
}

void OwnedWeight::adopt_scale(std::optional<Array> scale) {
  if (view_.dtype != DType::i8) {
    if (scale) refuse(std::string("a ") + dtype_name(view_.dtype) + " weight takes no scale; only int8 has one");
    return;
  }
  if (!scale) refuse("an int8 weight needs a scale per row");
  adopt_row_scale(std::move(*scale));
  row_sums_.reset(new int32_t[static_cast<size_t>(view_.rows)]);
  if (chosen_isa().kernels.inspect.sum_rows(view_, row_sums_.get()) < -127)  // kernels negate codes in 8 bits
    refuse("an int8 weight has the code -128; codes must lie in [-127, 127]");
  view_.row_sums = row_sums_.get();
}

void OwnedWeight::adopt_row_scale(Array scale) {
  expect_size("scale", scale, view_.rows);
  view_.scale = static_cast<const float*>(adopt(std::move(scale), sizeof(float)));
  for (int64_t row = 0; row < view_.rows; ++row)
    if (!std::isfinite(view_.scale[row])) refuse("the scale of row " + std::to_string(row) + " is not finite");
}

OwnedWeight OwnedWeight::dense(DType dtype, int64_t rows, int64_t cols, Array values, std::optional<Array> scale) {
  check_shape(rows, cols);
  expect_size("values", values, rows * cols);
  OwnedWeight weight;
  weight.view_.encoding = Encoding::dense;
  weight.view_.dtype = dtype;
  weight.view_.rows = rows;
  weight.view_.cols = cols;
  weight.view_.values = weight.adopt(std::move(values), element_size(dtype));
  weight.adopt_scale(std::move(scale));
  return weight;
}

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

bool OwnedWeight::reorder() {
  const LinearKernels& kernels = chosen_isa().kernels.linear;
  if (!kernels.has(Algorithm::spmm_rows, view_.encoding, view_.dtype)) return false;
  if (view_.reordered.steps) return true;
  const std::string advice = "load the model without reordering its weights";
  const AlignedBytes scratch = aligned_bytes(kernels.scratch_bytes(Algorithm::spmm_rows, view_, 1));
  begins_.assign(1, 0);
  const auto count_steps = [](void* to, const void*, const uint16_t*, int64_t count) {
    auto& begins = *static_cast<std::vector<int64_t>*>(to);
    begins.push_back(begins.back() + count);
  };
  kernels.list_steps(view_, count_steps, &begins_, scratch.get());
  steps_ = Allocation(begins_.back() * kStepBytes, "a reordered weight", advice);
  windows_ = Allocation(begins_.back() * int64_t{sizeof(uint16_t)}, "a reordered weight", advice);
  std::pair<char*, char*> next = {steps_.data(), windows_.data()};
  const auto copy_steps = [](void* to, const void* steps, const uint16_t* windows, int64_t count) {
    if (count == 0) return;  // a weight without nonzeros has no memory for steps, and memcpy refuses null even then
    auto& [step, window] = *static_cast<std::pair<char*, char*>*>(to);
    const auto bytes = static_cast<size_t>(count * kStepBytes), window_bytes = static_cast<size_t>(count) * 2;
    std::memcpy(step, steps, bytes);
    std::memcpy(window, windows, window_bytes);
    step += bytes;
    window += window_bytes;
  };
  kernels.list_steps(view_, copy_steps, &next, scratch.get());
  view_.reordered = {.steps = steps_.data(),
                     .windows = reinterpret_cast<const uint16_t*>(windows_.data()),
                     .begins = begins_.data(),
                     .count = static_cast<int64_t>(begins_.size()) - 1};
  return true;
}

int64_t OwnedWeight::nonzeros() const {
  if (view_.encoding == Encoding::slots) return nonzeros_;
  if (view_.dtype == DType::i4) return view_.encoding == Encoding::bitmask ? nonzeros_ : int4_nonzeros(view_);
  if (view_.encoding != Encoding::dense)
    return static_cast<int64_t>(view_.offsets[(view_.rows + kGroupRows - 1) / kGroupRows]);
  const int64_t size = view_.rows * view_.cols;
  switch (view_.dtype) {
    case DType::f32:
      return count_nonzeros(static_cast<const uint32_t*>(view_.values), size, uint32_t{0x7fffffff});
    case DType::bf16:
      return count_nonzeros(static_cast<const uint16_t*>(view_.values), size, uint16_t{0x7fff});
    case DType::i8:
    case DType::i4:
      break;
  }
  return count_nonzeros(static_cast<const uint8_t*>(view_.values), size, uint8_t{0xff});
}

void write_dense(const Weight& weight, void* out) {
  if (weight.encoding == Encoding::slots) return write_slots(weight, static_cast<int8_t*>(out));
  if (weight.dtype == DType::i4) return write_int4(weight, static_cast<int8_t*>(out));
  const int64_t element = element_size(weight.dtype);
  const char* values = static_cast<const char*>(weight.values);
  char* bytes = static_cast<char*>(out);
  if (weight.encoding == Encoding::dense) {
    std::memcpy(bytes, values, static_cast<size_t>(weight.rows * weight.cols * element));
    return;
  }
  std::memset(bytes, 0, static_cast<size_t>(weight.rows * weight.cols * element));
  for_each_value(weight, element, [&](int64_t row, int64_t col, const char* value) {
    if (row < weight.rows && col < weight.cols)
      std::memcpy(bytes + (row * weight.cols + col) * element, value, static_cast<size_t>(element));
  });
}

}  // namespace cutwork
