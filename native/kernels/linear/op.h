// What linears ask of an instruction set: for each dtype an Op, a struct of constants, types and static functions. A
// set that has some of it only derives from the Ops of ops/generic.inc and replaces what it has.
#pragma once

#include <concepts>
#include <cstdint>

#include "kernels/products/tiles.h"
#include "weights/layout.h"

namespace cutwork {

// For gemv of encodings with a mask: registers that hold a chunk of columns of one row.
template <class Op>
concept MaskedOp =
    requires(const uint64_t* word, const typename Op::Value*& values, const typename Op::InputValue* x,
             const typename Op::Chunk& chunk, const typename Op::Acc* accs, typename Op::Sum* sums, int i) {
      // Types: an element of the weight and of the prepared input, and a dot product of both.
      typename Op::Value;
      typename Op::InputValue;
      typename Op::Sum;
      // Whether Value is an int8 code, so that rows and tokens have scales; what is added to every code of the input,
      // such as 128 where it has to be unsigned.
      requires std::convertible_to<decltype(Op::kQuantized), bool>;
      requires !Op::kQuantized || (Op::kCodeBias == 0 || Op::kCodeBias == 128);
      // Columns of a chunk, a divisor of kBlockCols; tokens that share a chunk. An int8 Op may have kMaskedTokens, up
      // to twice as many, where expanding a bitmask takes longer than loading inputs for two rows.
      requires kBlockCols % Op::kCols == 0;
      requires Op::kGemvTokens >= 1;
      // Of each run of so many inputs the evens are stored first; 1: as they come. For bf16, whose halves of a dword
      // are widened to evens and odds.
      requires kBlockCols % Op::kDeinterleave == 0;
      // Chunk `i` of a mask word; advances the values past its nonzeros. May read kTailBytes beyond them.
      { Op::expand(word, i, values) } -> std::same_as<typename Op::Chunk>;
      // accs[0] + chunk * x, in as many parts as Acc has.
      { Op::dot(*accs, chunk, x) } -> std::same_as<typename Op::Acc>;
      // The totals of accs[0], accs[i], accs[2 * i] and accs[3 * i].
      { Op::sum4(accs, i, sums) } -> std::same_as<void>;
    };

// For gemv of every encoding. Masked is the Op that expands those with a mask: this one, or a faster one that reads
// kReadBefore bytes in front of the values, which must be there.
template <class Op>
concept GemvOp = MaskedOp<Op> && MaskedOp<typename Op::Masked> &&
                 (std::same_as<typename Op::Masked, Op> || Op::Masked::kReadBefore >= 0) &&
                 requires(const typename Op::Value* values, int64_t valid) {
                   // A dense chunk whose first `valid` columns exist; reads no others.
                   { Op::load(values, valid) } -> std::same_as<typename Op::Chunk>;
                 } && (!Op::kQuantized || requires(const typename Op::Acc& acc) {
                   { Op::add(acc, acc) } -> std::same_as<typename Op::Acc>;  // of exact sums, in whatever order
                 });

// For gemm: registers that hold a column of 16 rows, or of a part of them. kCols is that of a Raw.
template <class Op>
concept GemmOp = requires(const uint64_t* word, const typename Op::Value*& values, const typename Op::InputValue* x,
                          typename Op::Raw (&raws)[Op::kRawRows], char (*lines)[64], const char* line,
                          const typename Op::PanelAcc& acc, const typename Op::Lane& lane,
                          const typename Op::Factor& factor, typename Op::Sum* sums, int64_t valid, int i) {
  // Raw: a vector of kRawRows dwords with kCols columns of one row; kRawRows of them can be transposed.
  requires sizeof(typename Op::Raw) == 4 * Op::kRawRows&& kRowTile % Op::kRawRows == 0;
  { Op::transpose(raws) } -> std::same_as<void>;
  // Like expand and load.
  { Op::expand_raw(word, i, values) } -> std::same_as<typename Op::Raw>;
  { Op::load_raw(values, valid) } -> std::same_as<typename Op::Raw>;
  // Columns in one dword of a panel, 4 codes or 1 float; writes transposed vectors as kCols / kDepth parts of lines.
  requires Op::kDepth == 4 || Op::kDepth == 1;
  { Op::write_lines(raws, lines) } -> std::same_as<void>;
  // The block that registers hold: tiles of kRowTile rows x tokens, at most 3 tiles, or more with instructions for
  // matrices; vectors per line of a panel; columns of a panel, so many that it stays in cache.
  requires Op::kPanelTiles >= 1 && (Op::kPanelTiles <= 3 || HasTiles<Op>);
  requires Op::kGemmTokens >= 1 && kRowTile % Op::kVectors == 0;
  requires Op::kPanelCols % kBlockCols == 0;
  // PanelAcc: a vector of sums of rows. Vector `i` of a line, ready for use; one input, in every lane.
  { Op::lane(line, i) } -> std::same_as<typename Op::Lane>;
  { Op::splat(x) } -> std::same_as<typename Op::Factor>;
  { Op::mac(acc, lane, factor) } -> std::same_as<typename Op::PanelAcc>;
  { Op::load_sum(sums) } -> std::same_as<typename Op::PanelAcc>;
  { Op::store_sum(acc, sums) } -> std::same_as<void>;
};

// For gemm where an instruction multiplies two rows with two tokens: of two lines of a panel, which write_lines has put
// in such an order, each vector holds the columns of both lines of two rows.
template <class Op>
concept PairOp =
    GemmOp<Op> && Op::kMatrices && Op::kDepth == 4 &&
    requires(const typename Op::InputValue* x, const typename Op::PanelAcc& acc, typename Op::PanelAcc (&both)[2],
             const typename Op::Lane& rows, const typename Op::Factor& tokens) {
      // The inputs of two tokens for the columns of two lines.
      { Op::pair(x, x) } -> std::same_as<typename Op::Factor>;
      { Op::mac_pair(acc, rows, tokens) } -> std::same_as<typename Op::PanelAcc>;
      // From the sums of vector `i` of both lines to those that `store_sum` writes for the first and for
      // the second token; and the reverse.
      { Op::split(both) } -> std::same_as<void>;
      { Op::join(both) } -> std::same_as<void>;
    };

// For gemm where instructions multiply whole matrices.
template <class Op>
concept TileOp = GemmOp<Op> && HasTiles<Op> && Op::kDepth == 4 && Op::kGemmTokens == Op::Tiles::kTokens &&
                 Op::kPanelCols % Op::Tiles::kCols == 0;

// What spmm_columns.inc makes of a weight's columns, as put_places has to know it.
struct ColumnsOfBytes {
  using Place = uint16_t;
  static constexpr int64_t kLines = 1, kPlaceBytes = 8, kLikely = 32;
  struct {
    alignas(64) uint8_t place[kBlockCols];
  } static constexpr kTable = {};
};

// For spmm_tokens: registers that hold one input of 16 tokens, or of a part of them.
template <class Op>
concept SpmmTokensOp =
    GemmOp<Op> && requires(const char* line, const typename Op::InputValue* element, const typename Op::PanelAcc& acc,
                           uint64_t word, int64_t count, uint16_t* places, int i) {
      // Vector `i` of a line of the transposed input; one listed value, or four codes, in every lane; their products.
      { Op::mac(acc, Op::weight_lane(element), Op::tokens(line, i)) } -> std::same_as<typename Op::PanelAcc>;
      { Op::add_sums(acc, acc) } -> std::same_as<typename Op::PanelAcc>;
      // Rows of block4x1 that share the input they are multiplied with: 1, 2 or 4.
      requires kGroupRows % Op::kSharedRows == 0;
      // Lists the places of the columns of the word's `count` bits, the block's columns beginning at `count`; writes up
      // to 64.
      { Op::template put_places<ColumnsOfBytes>(word, count, count, places) } -> std::same_as<void>;
    };

// For spmm_tokens of floats.
template <class Op>
concept ListsFloats = requires(const typename Op::Value* values, int64_t count, float* out) {
  // Lists `count` values as floats; may write 48 too many.
  { Op::put_values(values, count, out) } -> std::same_as<void>;
};

// For spmm_tokens of codes.
template <class Op>
concept ZipsBytes = requires(const char* line, typename Op::Raw (&four)[4]) {
  // four[c]: byte c of the dwords of four[0], four[1], four[2], four[3], per 16 bytes; and the reverse, of four lines.
  { Op::split_bytes(four) } -> std::same_as<void>;
  { Op::zip_bytes(line, line, line, line, four) } -> std::same_as<void>;
};

// All of it for a dtype. Panels is the Op of gemm and spmm_tokens, as a rule the Op itself.
template <class Op, class Value>
concept LinearOp = std::same_as<typename Op::Value, Value> && GemvOp<Op> && SpmmTokensOp<typename Op::Panels> &&
                   (Op::kQuantized ? ZipsBytes<typename Op::Panels> : ListsFloats<typename Op::Panels>);

}  // namespace cutwork
