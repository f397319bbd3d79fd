// How many CPUs this process may use.
#pragma once

#include <string>

namespace cutwork {

// The CPUs in this process's affinity mask, less if a control group (version 1 or 2) grants it less time; at least 1.
// `root` is where /proc and /sys are looked for.
int default_threads(const std::string& root = "/");

}  // namespace cutwork
