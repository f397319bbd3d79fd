#include "kernels/inspect.h"

namespace cutwork {
namespace {
#include "kernels/inspect.inc"
}  // namespace

extern const InspectKernels inspect_avx2;
const InspectKernels inspect_avx2 = {count_bits, sum_rows};

}  // namespace cutwork
