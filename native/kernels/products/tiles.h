// What the Ops of a set whose instructions multiply whole matrices have: Tiles, their registers (products/tiles.inc).
#pragma once

#include <concepts>
#include <cstdint>

namespace cutwork {

struct NoTiles {};

// Those of an Op, or none.
template <class Op>
struct TilesOf {
  using Type = NoTiles;
};
template <class Op>
  requires requires { typename Op::Tiles; }
struct TilesOf<Op> {
  using Type = typename Op::Tiles;
};

// An Op with panels that tiles can be loaded from.
template <class Op>
concept HasTiles = Op::kPanelTiles % Op::Tiles::kRowTiles == 0 && requires(typename Op::Tiles& tiles, int64_t tokens) {
  { tiles.hold(tokens) } -> std::same_as<void>;
};

}  // namespace cutwork
