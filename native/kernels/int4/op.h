// What int4 weights ask of an instruction set: an Op that multiplies the words of a tile of kRowTile rows. Every set
// gives the same results bit for bit.
#pragma once

#include <concepts>
#include <cstdint>

#include "kernels/products/tiles.h"
#include "weights/layout.h"

namespace cutwork {

template <class Op>
concept Int4Op =
    requires(const uint8_t*& bytes, const uint64_t* mask, typename Op::Word& word, typename Op::Acc& acc,
             const typename Op::Sums& sums, const typename Op::Factor& factor, const int8_t* x, const Weight& weight,
             int32_t correction, const float* from, float* y, char* line, int64_t i) {
      // Word: the 64 codes of a word, as bytes. Acc, Sums: integer and float sums of the rows of a tile.
      // Tokens per pass of gemv; integer sums per token, so that their latencies overlap, by the tokens at once.
      requires Op::kGemvTokens >= 1 && Op::template kChains<1> >= 1;
      // The even and the odd word of 64 bytes.
      { Op::load(bytes, word, word) } -> std::same_as<void>;
      // An even or an odd word from a stream; advances it past the word's nonzeros. May read kTailBytes beyond them.
      { Op::template expand<false>(mask, bytes) } -> std::same_as<typename Op::Word>;
      { Op::template expand<true>(mask, bytes) } -> std::same_as<typename Op::Word>;
      // acc + the word's codes times the four inputs at x; flush is called at least once per run of eight words.
      { Op::mac(acc, word, x) } -> std::same_as<typename Op::Acc>;
      { Op::flush(acc) } -> std::same_as<void>;
      { Op::add(acc, acc) } -> std::same_as<typename Op::Acc>;
      // The scales of a tile's rows from entry i on; sums + float(acc - correction) * scales, rounded twice.
      { Op::scales(weight, i) } -> std::same_as<typename Op::Sums>;
      { Op::add_scaled(sums, acc, correction, sums) } -> std::same_as<typename Op::Sums>;
      // store: sums * factor, the first i of them.
      { Op::load_sums(from) } -> std::same_as<typename Op::Sums>;
      { Op::store(y, sums, 1.0f, i) } -> std::same_as<void>;
      // For gemm: the block that registers hold, of 1 or 3 tiles x tokens; a word in memory; four inputs for several
      // words.
      requires Op::kPanelTiles == 1 || Op::kPanelTiles == 3 || HasTiles<Op>;
      requires Op::kGemmTokens >= 1;
      { Op::put(line, word) } -> std::same_as<void>;
      { Op::get(line) } -> std::same_as<typename Op::Word>;
      { Op::splat(x) } -> std::same_as<typename Op::Factor>;
      { Op::mac(acc, word, factor) } -> std::same_as<typename Op::Acc>;
    };

// For gemm where an instruction multiplies two rows with two tokens.
template <class Op>
concept Int4PairOp = Int4Op<Op> && Op::kMatrices &&
                     requires(char* line, const typename Op::Word& word, const typename Op::WordPair& words,
                              const typename Op::PairAcc& sums, const typename Op::Factor& factor, const int8_t* x,
                              typename Op::Acc& acc) {
                       // An even and an odd word in two lines, in an order of their own.
                       { Op::put_pair(line, word, word) } -> std::same_as<void>;
                       { Op::get_pair(line) } -> std::same_as<typename Op::WordPair>;
                       // The eight inputs of two tokens; their products; the sums of each token.
                       { Op::pair(x, x) } -> std::same_as<typename Op::Factor>;
                       { Op::mac_pair(sums, words, factor) } -> std::same_as<typename Op::PairAcc>;
                       { Op::split(sums, acc, acc) } -> std::same_as<void>;
                     };

// For gemm where instructions multiply whole matrices.
template <class Op>
concept Int4TileOp =
    Int4Op<Op> && HasTiles<Op> && requires(const typename Op::Sums& scales, const int32_t* exact, float* sums) {
      // sums + float(exact) * scales of a tile's rows, rounded twice.
      { Op::add_exact(sums, exact, scales) } -> std::same_as<void>;
    };

}  // namespace cutwork
