// In what processors differ that have the same instruction sets.
#pragma once

namespace cutwork {

struct Tuning {
  // One token keeps the processor so little busy that its own prefetchers bring an even stream of weights fastest;
  // what is fetched beside them is in their way.
  bool follows_even_streams;
  int block_tokens;  // the fewest whose int8 slots are looked up in blocks of inputs
};

// Of this processor.
extern const Tuning tuning;

// AMD's family of this processor, 0 of other makers'. Zen 3 and 4 are one.
constexpr unsigned kZen3And4 = 0x19, kZen5 = 0x1a;
unsigned amd_family();
bool is_intel();

}  // namespace cutwork
