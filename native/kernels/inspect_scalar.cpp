#include "kernels/inspect.h"

namespace cutwork {
namespace {
#include "kernels/inspect.inc"
}  // namespace

extern const InspectKernels inspect_scalar;
const InspectKernels inspect_scalar = {count_bits, sum_rows};

}  // namespace cutwork
