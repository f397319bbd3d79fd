// The contract between the linear kernels and whoever calls them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "weights/layout.h"

namespace cutwork {

// How a linear is multiplied.
// gemv: decompresses a few rows at a time for a few tokens at a time; needs no scratch.
// gemm: decompresses a panel of rows once, then multiplies it with all tokens as if it were dense.
// spmm_tokens: tokens are the lanes, and each nonzero multiplies those of its column; reads the input transposed.
// spmm_rows: rows are the lanes, each with the inputs of its next nonzeros; reads the input in windows of columns.
// slots: the same of the encoding that has worked this out beforehand, for any number of tokens.
enum class Algorithm : uint8_t { gemv, gemm, spmm_tokens, spmm_rows, slots };
constexpr Algorithm kAlgorithms[] = {Algorithm::gemv, Algorithm::gemm, Algorithm::spmm_tokens, Algorithm::spmm_rows,
                                     Algorithm::slots};
constexpr size_t kKernelCount = sizeof kAlgorithms * kEncodingCount * kDTypeCount;

// Numbers the kernels from 0 on.
constexpr size_t kernel_index(Algorithm algorithm, Encoding encoding, DType dtype) {
  return (static_cast<size_t>(algorithm) * kEncodingCount + static_cast<size_t>(encoding)) * kDTypeCount +
         static_cast<size_t>(dtype);
}

// Whether an algorithm reads its input rearranged, since it skips the zeros of a mask.
constexpr bool skips_zeros(Algorithm algorithm) {
  return algorithm == Algorithm::spmm_tokens || algorithm == Algorithm::spmm_rows;
}

// Receives some of the steps of RowSteps.
using TakeSteps = void (*)(void* to, const void* steps, const uint16_t* windows, int64_t count);

// Results of a row do not depend on how the rows were split among calls.
struct LinearKernels {
  // Bytes of a prepared input of `tokens` x `cols` for weights of `dtype`; memory is 64-byte aligned.
  size_t (*input_bytes)(DType dtype, int64_t tokens, int64_t cols);
  // Brings tokens [begin, end) of x [tokens, cols] (f32, row stride ldx) into the form the kernels of `dtype` read:
  // dynamic per-token symmetric int8 for i8, permuted or copied f32 for the others. Threads share the tokens.
  void (*prepare)(DType dtype, const float* x, int64_t ldx, int64_t tokens, int64_t cols, int64_t begin, int64_t end,
                  void* input);
  // Bytes of a prepared input rearranged for an algorithm that skips zeros and weights of this encoding and dtype;
  // memory is 64-byte aligned.
  size_t (*rearranged_bytes)(Algorithm algorithm, Encoding encoding, DType dtype, int64_t tokens, int64_t cols);
  // Rearranges tokens [begin, end) of a prepared input; begin is a multiple of kTokenTile, and so is end, or it is
  // `tokens`. Threads share the tiles.
  void (*rearrange_input)(Algorithm algorithm, Encoding encoding, DType dtype, const void* input, int64_t tokens,
                          int64_t cols, int64_t begin, int64_t end, void* rearranged);
  // Whether the set has the algorithm for weights of this encoding and dtype; gemv for all but slots.
  bool (*has)(Algorithm algorithm, Encoding encoding, DType dtype);
  // Bytes of private, 64-byte aligned scratch that one call of `multiply` needs; no less for more tokens.
  size_t (*scratch_bytes)(Algorithm algorithm, const Weight& weight, int64_t tokens);
  // y[t * ldy + n] = sum_k x[t, k] * weight[n, k] for all tokens and rows n in [begin, end); begin is a multiple of
  // kRowTile. The set must have the algorithm for the weight; where it skips zeros, `input` is the rearranged one.
  void (*multiply)(Algorithm algorithm, const Weight& weight, const void* input, int64_t tokens, int64_t begin,
                   int64_t end, float* y, int64_t ldy, void* scratch);
  int64_t (*gemv_tokens)(Encoding encoding, DType dtype);  // that gemv multiplies for one decompression
  // For weights that the set multiplies by spmm_rows: calls take for each row tile and run in the order of RowSteps.
  // `scratch` is that of one token.
  void (*list_steps)(const Weight& weight, TakeSteps take, void* to, void* scratch);
};

}  // namespace cutwork
