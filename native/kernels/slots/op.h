// What weights of the encoding `slots` ask of an instruction set: a table of 16 bytes looked up, and a dot product of
// bytes. Every set gives the same integer sums.
#pragma once

#include <concepts>
#include <cstdint>

#include "weights/layout.h"

namespace cutwork {

template <class Op>
concept SlotsOp = requires(const uint8_t* bytes, const uint16_t* starts, typename Op::Vector vector,
                           typename Op::Wide wide, typename Op::Acc acc, int32_t* sums, int part,
                           const typename Op::Acc (&parts)[Op::kParts], typename Op::Totals totals) {
  // Slots that a Vector holds, of kRowTile / kParts rows; tokens multiplied at a time, a sum for each part and token.
  requires kStepSlots % Op::kParts == 0;
  requires Op::kTokens >= 1;
  // What is added to every code of the input: that of the set's int8 Op.
  requires Op::kCodeBias == 0 || Op::kCodeBias == 128;
  { Op::load(bytes) } -> std::same_as<typename Op::Vector>;
  // The low and the high nibbles of bytes; and their high nibbles times 16, signed.
  { Op::low(vector) } -> std::same_as<typename Op::Vector>;
  { Op::high(vector) } -> std::same_as<typename Op::Vector>;
  { Op::high_codes(vector) } -> std::same_as<typename Op::Vector>;
  // 16 inputs for every row; and for each strip of four rows those from its own start on.
  { Op::window(bytes) } -> std::same_as<typename Op::Vector>;
  { Op::windows(bytes, starts) } -> std::same_as<typename Op::Vector>;
  { Op::wide_windows(bytes, starts) } -> std::same_as<typename Op::Wide>;  // of 32 inputs
  // The inputs of columns in the window; in a wide one columns have a fifth bit, the top one of each byte.
  { Op::look_up(vector, vector) } -> std::same_as<typename Op::Vector>;
  { Op::look_up(wide, vector, vector) } -> std::same_as<typename Op::Vector>;
  // The fifth bits of a part of a record, of its first step's columns, with the second's beside them; and with those of
  // the second where the first's were.
  { Op::fifths(bytes, part) } -> std::same_as<typename Op::Vector>;
  { Op::next(vector) } -> std::same_as<typename Op::Vector>;
  // acc + codes * inputs, a sum per row.
  { Op::mac(acc, vector, vector) } -> std::same_as<typename Op::Acc>;
  { Op::zero() } -> std::same_as<typename Op::Acc>;
  { Op::load_sums(sums) } -> std::same_as<typename Op::Acc>;
  { Op::store_sums(acc, sums) } -> std::same_as<void>;
  // For int4: acc + what is added to every code of the input * the codes; a sixteenth of multiples of 16; totals +
  // parts * scales, rounded twice. Totals are int4's Sums.
  { Op::add_bias(acc, vector) } -> std::same_as<typename Op::Acc>;
  { Op::add(acc, acc) } -> std::same_as<typename Op::Acc>;
  { Op::subtract(acc, acc) } -> std::same_as<typename Op::Acc>;
  { Op::sixteenth(acc) } -> std::same_as<typename Op::Acc>;
  { Op::add_scaled(totals, parts, totals) } -> std::same_as<typename Op::Totals>;
};

// Of sets whose lookup takes 64 bytes: the block of kBlockCols inputs in which a window lies that begins at *starts, or
// each strip's of int4 from its own start on; places of columns in such a block; and acc + codes * the inputs there.
template <class Op>
concept BlockLookup = requires(const uint16_t* starts, typename Op::Vector vector, typename Op::Acc acc) {
  requires Op::kParts == 1;
  { Op::block(starts).begin } -> std::convertible_to<int64_t>;
  { Op::strip_block(starts).begin } -> std::convertible_to<int64_t>;
  { Op::places(vector, Op::block(starts).windows) } -> std::same_as<typename Op::Vector>;
  { Op::places(vector, Op::strip_block(starts).windows) } -> std::same_as<typename Op::Vector>;
  { Op::mac_block(acc, vector, vector, vector) } -> std::same_as<typename Op::Acc>;
};

// Of sets that write slots out as lines of a panel, four columns of kRowTile rows each: adds the codes of a step, of
// columns from its starts on, to lines of the first columns; and codes of the high nibbles of bytes, signed.
template <class Op>
concept WritesOut = requires(typename Op::Vector vector, const uint16_t* starts, char* lines) {
  { Op::template write<SlotForm::tiles>(vector, vector, starts, lines) } -> std::same_as<void>;
  { Op::template write<SlotForm::strips>(vector, vector, starts, lines) } -> std::same_as<void>;
  { Op::code_if(vector, vector) } -> std::same_as<typename Op::Vector>;  // where the second has top bits, else 0
  { Op::code_unless(vector, vector) } -> std::same_as<typename Op::Vector>;
  { Op::signed_high(vector) } -> std::same_as<typename Op::Vector>;
};

}  // namespace cutwork
