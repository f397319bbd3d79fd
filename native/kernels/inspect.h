// What has to be counted of a weight before it can be trusted: every byte of a model is read for it when it is loaded.
#pragma once

#include <cstdint>

#include "weights/layout.h"

namespace cutwork {

struct InspectKernels {
  // Adds the bits set in `count` words to counts[0] if they are at even places, to counts[1] if at odd ones.
  void (*count_bits)(const uint64_t* words, int64_t count, uint64_t counts[2]);
  // row_sums of an i8 weight, whose mask must have been checked; returns the lowest code.
  int8_t (*sum_rows)(const Weight& weight, int32_t* sums);
};

}  // namespace cutwork
