// The contract between the linear kernels and whoever calls them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cutwork {

enum class DType : uint8_t { f32, bf16, i8, i4 };
enum class ScaleType : uint8_t { f32, bf16, f16 };  // of int4 weights, as their checkpoint had them
enum class Encoding : uint8_t { dense, bitmask, block1x4, block4x1 };
constexpr DType kDTypes[] = {DType::f32, DType::bf16, DType::i8, DType::i4};
constexpr Encoding kEncodings[] = {Encoding::dense, Encoding::bitmask, Encoding::block1x4, Encoding::block4x1};
constexpr size_t kDTypeCount = sizeof kDTypes, kEncodingCount = sizeof kEncodings;

constexpr int64_t kGroupRows = 4;    // rows that share one value stream in the bitmask encoding
constexpr int64_t kBlockCols = 64;   // columns covered by one mask word
constexpr int64_t kRowTile = 16;     // callers split the rows of a linear at multiples of this
constexpr int64_t kRowPanel = 128;   // where zeros are skipped better at multiples of this
constexpr int64_t kTokenTile = 64;   // and the tokens to be rearranged at multiples of this
constexpr int64_t kTailBytes = 64;   // readable bytes after the last value of the encodings with a mask
constexpr int64_t kRunCols = 32;     // columns of an int4 tile that are stored together
constexpr int64_t kRunWords = 8;     // of 64 codes, in a run
constexpr int64_t kMaxCols = 65536;  // 255 * 127 * kMaxCols still fits in the int32 accumulators

// What the family `rows` multiplies, where a weight has been reordered for it: steps of 64 products, each kRowTile
// rows' next columns (in a window of 64) and codes, and the number of its window. Those of row tile t in run r are
// steps [begins[i], begins[i + 1]) for i = order(t, r), see rows.inc.
struct RowSteps {
  const void* steps;  // of kStepBytes
  const uint16_t* windows;
  const int64_t* begins;
  int64_t count;  // of row tiles times runs
};
constexpr int64_t kStepBytes = 128;
using TakeSteps = void (*)(void* to, const void* steps, const uint16_t* windows, int64_t count);

// A weight [rows, cols] whose memory somebody else owns and has validated (weight.h).
//
// dense:   `values` is [rows, cols], row-major, unpadded.
// bitmask: `mask` is [ceil(rows/4)][ceil(cols/64)][4] words, bit j of word (g, b, r) standing for row 4g+r, column
// 64b+j;
//          bits beyond `rows` or `cols` are zero. `values` holds the nonzeros in the order of the mask's bits, group
//          after group; group g's begin at element offsets[g], and offsets[ceil(rows/4)] is their number.
// block1x4: like bitmask, but `mask` is [ceil(rows/4)][ceil(cols/64)][4] 16-bit words, bit j of word (g, b, r) standing
//          for columns 64b+4j .. 64b+4j+3 of row 4g+r, which have four values; those beyond `cols` are zero.
// block4x1: like bitmask, but `mask` is [ceil(rows/4)][ceil(cols/64)] words, each standing for all four rows of a
//          group; values of rows beyond `rows` are zero. Both blocks may hold zeros.
// i8:      value = code * scale[row]; codes lie in [-127, 127]; row_sums[row] is the sum of the row's codes.
// i4:      value = (code - 8) * scale, codes 0 .. 15, in tiles of kRowTile rows as docs/format.md tells.
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
  RowSteps reordered;  // or null: `rows` then works them out in each call
};

// How a linear is multiplied.
// gemv: decompresses a few rows at a time for a few tokens at a time; needs no scratch.
// gemm: decompresses a panel of rows once, then multiplies it with all tokens as if it were dense.
// spmm: multiplies the tokens, as lanes, with each nonzero; reads the input transposed.
// rows: multiplies rows, as lanes, with the inputs of their next nonzeros; reads the input in windows of columns.
enum class Family : uint8_t { gemv, gemm, spmm, rows };
constexpr Family kFamilies[] = {Family::gemv, Family::gemm, Family::spmm, Family::rows};
constexpr size_t kKernelCount = sizeof kFamilies * kEncodingCount * kDTypeCount;

// Numbers the kernels from 0 on.
constexpr size_t kernel_index(Family family, Encoding encoding, DType dtype) {
  return (static_cast<size_t>(family) * kEncodingCount + static_cast<size_t>(encoding)) * kDTypeCount +
         static_cast<size_t>(dtype);
}

// Whether a family skips zeros; it then reads its input rearranged.
constexpr bool skips_zeros(Family family) {
  return family == Family::spmm || family == Family::rows;
}

// How many rows share one entry of `offsets`, which is the only thing about int4 that callers need to know.
constexpr int64_t stream_rows(DType dtype) {
  return dtype == DType::i4 ? kRowTile : kGroupRows;
}

// What an instruction set offers. Results of a row do not depend on how the rows were split among calls.
struct LinearKernels {
  // Bytes of a prepared input of `tokens` x `cols` for weights of `dtype`; memory is 64-byte aligned.
  size_t (*input_bytes)(DType dtype, int64_t tokens, int64_t cols);
  // Brings tokens [begin, end) of x [tokens, cols] (f32, row stride ldx) into the form the kernels of `dtype` read:
  // dynamic per-token symmetric int8 for i8, permuted or copied f32 for the others. Threads share the tokens.
  void (*prepare)(DType dtype, const float* x, int64_t ldx, int64_t tokens, int64_t cols, int64_t begin, int64_t end,
                  void* input);
  // Bytes of a prepared input rearranged for a family that skips zeros and weights of this encoding and dtype; memory
  // is 64-byte aligned. Null in a set without such families, like the next.
  size_t (*rearranged_bytes)(Family family, Encoding encoding, DType dtype, int64_t tokens, int64_t cols);
  // Rearranges tokens [begin, end) of a prepared input; begin is a multiple of kTokenTile, and so is end, or it is
  // `tokens`. Threads share the tiles.
  void (*rearrange_input)(Family family, Encoding encoding, DType dtype, const void* input, int64_t tokens,
                          int64_t cols, int64_t begin, int64_t end, void* rearranged);
  // Whether the set has the family for weights of this encoding and dtype; gemv always.
  bool (*has)(Family family, Encoding encoding, DType dtype);
  // Bytes of private, 64-byte aligned scratch that one call of `multiply` needs; no less for more tokens.
  size_t (*scratch_bytes)(Family family, const Weight& weight, int64_t tokens);
  // y[t * ldy + n] = sum_k x[t, k] * weight[n, k] for all tokens and rows n in [begin, end); begin is a multiple of
  // kRowTile. The set must have the family for the weight; where it skips zeros, `input` is the rearranged one.
  void (*multiply)(Family family, const Weight& weight, const void* input, int64_t tokens, int64_t begin, int64_t end,
                   float* y, int64_t ldy, void* scratch);
  int64_t (*gemv_tokens)(DType dtype);  // that gemv multiplies for one decompression
  // For weights that the set multiplies by `rows`: calls take for each row tile and run in the order of RowSteps.
  // `scratch` is that of one token. Null in a set without that family.
  void (*plan_rows)(const Weight& weight, TakeSteps take, void* to, void* scratch);
};

// avx512f: F, BW, DQ and VL; avx512: VBMI, VBMI2, VNNI and VPOPCNTDQ as well.
enum class Isa : uint8_t { scalar, avx2, avx512f, avx512 };

// The best set this processor supports, or the lower one that CUTWORK_ISA names. Throws std::invalid_argument if
// CUTWORK_ISA names an unknown set or one that the processor lacks.
Isa chosen_isa();
const char* isa_name(Isa isa);
Isa parse_isa(const char* name);  // throws std::invalid_argument for an unknown name
bool isa_supported(Isa isa);      // by this processor and its operating system
const LinearKernels& linear_kernels(Isa isa);

}  // namespace cutwork
