// Int4 weights: what must hold for the kernels to trust one, and what one stands for.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "kernels/isa.h"
#include "weights/refuse.h"
#include "weights/weight.h"

namespace cutwork {
namespace {

#include "kernels/int4/layout.inc"
#include "weights/int4_codes.inc"

// Whether bits are set for rows or columns that do not exist.
bool has_dead_bits(const Weight& weight, int64_t tile) {
  const int64_t runs = run_count(weight.cols);
  const bool whole = (tile + 1) * kRowTile <= weight.rows;
  for (int64_t run = whole ? weight.cols / kRunCols : 0; run < runs; ++run)
    for (int64_t w = 0; w < kRunWords; ++w)
      if ((weight.mask[(tile * runs + run) * kRunWords + w] & ~live_places(weight, tile, run, w)) != 0) return true;
  return false;
}

// The number of nonzeros.
int64_t check_mask(const Weight& weight) {
  const int64_t words = run_count(weight.cols) * kRunWords;
  const InspectKernels& kernels = chosen_isa().kernels.inspect;
  uint64_t nonzeros = 0, bytes = 0;
  if (weight.offsets[0] != 0) refuse("offsets begin at " + std::to_string(weight.offsets[0]) + ", expected 0");
  for (int64_t tile = 0; tile < tile_count(weight.rows); ++tile) {
    if (has_dead_bits(weight, tile)) refuse("the mask has bits beyond the weight's shape");
    uint64_t counts[2] = {};
    kernels.count_bits(weight.mask + tile * words, words, counts);
    nonzeros += counts[0] + counts[1];
    bytes += std::max(counts[0], counts[1]);
    if (weight.offsets[tile + 1] != bytes)
      refuse("row tile " + std::to_string(tile) + " ends at offset " + std::to_string(weight.offsets[tile + 1]) +
             ", but the mask takes " + std::to_string(bytes) + " bytes up to there");
  }
  return static_cast<int64_t>(nonzeros);
}

}  // namespace

OwnedWeight OwnedWeight::int4(int64_t rows, int64_t cols, Array values, ScaleType scale_type, Array scale,
                              int64_t group_cols, std::optional<Array> mask, std::optional<Array> offsets) {
  check_shape(rows, cols);
  if (mask.has_value() != offsets.has_value()) refuse("mask and offsets come together or not at all");
  const int64_t tiles = tile_count(rows), runs = run_count(cols);
  OwnedWeight weight;
  Weight& view = weight.view_;
  view.encoding = mask ? Encoding::bitmask : Encoding::dense;
  view.dtype = DType::i4;
  view.rows = rows;
  view.cols = cols;
  if (mask) {
    expect_size("mask", *mask, tiles * runs * kRunWords);
    expect_size("offsets", *offsets, tiles + 1);
    view.mask = static_cast<const uint64_t*>(weight.adopt(std::move(*mask), sizeof(uint64_t)));
    view.offsets = static_cast<const uint64_t*>(weight.adopt(std::move(*offsets), sizeof(uint64_t)));
    weight.nonzeros_ = check_mask(view);
    expect_size("values", values, static_cast<int64_t>(view.offsets[tiles]) + kTailBytes);
  } else {
    expect_size("values", values, tiles * runs * kRunWords / 2 * kPairBytes);
  }
  view.values = weight.adopt(std::move(values), 1);
  weight.adopt_scales(std::move(scale), scale_type, group_cols, kRunCols);
  return weight;
}

// Scales of groups, each a multiple of so many columns.
void OwnedWeight::adopt_scales(Array scale, ScaleType type, int64_t group_cols, int64_t multiple) {
  if (group_cols < multiple || group_cols % multiple != 0 || group_cols > kMaxCols)
    refuse("a group of " + std::to_string(group_cols) + " columns is no multiple of " + std::to_string(multiple));
  view_.scale_type = type;
  view_.group_cols = group_cols;
  const int64_t count = tile_count(view_.rows) * group_count(view_) * kRowTile;
  expect_size("scale", scale, count);
  view_.scales = adopt(std::move(scale), scale_size(view_));
  for (int64_t i = 0; i < count; ++i)
    if (!std::isfinite(scale_at(view_, i))) refuse("scale " + std::to_string(i) + " is not finite");
}

int64_t int4_nonzeros(const Weight& weight) {
  int64_t count = 0;
  for_codes(weight, 0, tile_count(weight.rows), [&](int64_t, int64_t, int8_t code) { count += code != 0; });
  return count;
}

void write_int4(const Weight& weight, int8_t* out) {
  std::memset(out, 0, static_cast<size_t>(weight.rows * weight.cols));
  for_codes(weight, 0, tile_count(weight.rows),
            [&](int64_t row, int64_t col, int8_t code) { out[row * weight.cols + col] = code; });
}

}  // namespace cutwork
