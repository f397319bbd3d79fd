#include "kernels/choice.h"

#include <stdexcept>
#include <string>

namespace cutwork {
namespace {

// gemv decompresses cheaply, but again for every few tokens; dense weights need no decompression. spmm skips zeros, but
// reads an input for every product where gemm keeps it in a register. The limits were measured.
Family preferred(const Weight& weight, int64_t tokens) {
  if (weight.dtype == DType::i4) return tokens <= 16 ? Family::gemv : Family::gemm;
  if (weight.encoding == Encoding::dense) return tokens <= 5 ? Family::gemv : Family::gemm;
  if (tokens <= 12) return Family::gemv;
  const uint64_t nonzeros = weight.offsets[(weight.rows + kGroupRows - 1) / kGroupRows];
  const auto density = static_cast<double>(nonzeros) / static_cast<double>(weight.rows * weight.cols);
  const bool floats = weight.dtype != DType::i8;
  return floats && tokens >= 64 && density <= 0.35 && weight.cols <= 16384 ? Family::spmm : Family::gemm;
}

}  // namespace

Family choose_family(const LinearKernels& kernels, const Weight& weight, int64_t tokens) {
  const Family family = preferred(weight, tokens);
  return kernels.has(family, weight.encoding, weight.dtype) ? family : Family::gemv;
}

const char* family_name(Family family) {
  switch (family) {
    case Family::gemv:
      return "gemv";
    case Family::gemm:
      return "gemm";
    case Family::spmm:
      break;
  }
  return "spmm";
}

Family parse_family(const char* name) {
  std::string names;
  for (Family family : kFamilies) {
    if (std::string(name) == family_name(family)) return family;
    names += (names.empty() ? "" : ", ") + std::string(family_name(family));
  }
  throw std::invalid_argument(std::string("unknown kernel '") + name + "'; choose one of " + names);
}

}  // namespace cutwork
