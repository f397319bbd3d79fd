// An instruction set and all that it offers.
#pragma once

#include "kernels/attention/attention.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/features.h"
#include "kernels/inspect.h"
#include "kernels/linear/linear.h"

namespace cutwork {

struct Kernels {
  LinearKernels linear;  // of every dtype, int4 too
  AttentionKernels attention;
  ElementwiseKernels elementwise;
  InspectKernels inspect;
};

// A set is a capability, not a rank: a processor has it if it has all that the set needs.
struct Isa {
  const char* name;
  Features needs;
  Kernels kernels;
  const BfloatAttention* bfloat_attention =
      nullptr;  // or null; ask `bfloat_attention(isa)`, it needs more than the set
};

}  // namespace cutwork
