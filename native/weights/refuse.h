// How a weight that breaks a rule of layout.h is refused.
#pragma once

#include <stdexcept>
#include <string>

namespace cutwork {

[[noreturn]] inline void refuse(const std::string& sentence) {
  throw std::invalid_argument(sentence);
}

}  // namespace cutwork
