#include "runtime/cpus.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <thread>

#ifdef __linux__
#include <sched.h>
#endif

namespace cutwork {
namespace {

int affinity_cpus() {
#ifdef __linux__
  for (int capacity = 1024; capacity <= 1 << 20; capacity *= 2) {
    cpu_set_t* set = CPU_ALLOC(capacity);
    if (!set) break;
    const size_t bytes = CPU_ALLOC_SIZE(capacity);
    const int count = sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (count > 0) return count;
  }
#endif
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

// CPUs that `quota` of every `period` amounts to, or `most` if the text holds no limit.
double granted(std::istream& quota, std::istream& period, double most) {
  double used = 0, every = 0;
  return quota >> used && period >> every && used > 0 && every > 0 ? used / every : most;
}

// Calls f with the folder of a control group and of each of its ancestors below `mount`.
template <class F>
void each_ancestor(const std::string& mount, std::string group, const F& f) {
  while (true) {
    f(mount + group);
    const size_t slash = group.rfind('/');
    if (slash == std::string::npos) return;
    group.resize(slash);
  }
}

double quota_cpus(const std::string& root, double most) {
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // hierarchy:controllers:path
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
    if (controllers.empty()) {
      for (const char* mount : {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}) {
        each_ancestor(root + mount, path, [&](const std::string& folder) {
          std::ifstream both(folder + "/cpu.max");  // "QUOTA PERIOD" or "max PERIOD"
          most = std::min(most, granted(both, both, most));
        });
      }
    } else if (("," + controllers + ",").find(",cpu,") != std::string::npos) {
      for (const std::string& mount : {std::string("/sys/fs/cgroup/cpu"), "/sys/fs/cgroup/" + controllers}) {
        each_ancestor(root + mount, path, [&](const std::string& folder) {
          std::ifstream quota(folder + "/cpu.cfs_quota_us"), period(folder + "/cpu.cfs_period_us");
          most = std::min(most, granted(quota, period, most));
        });
      }
    }
  }
  return most;
}

}  // namespace

int default_threads(const std::string& root) {
  return std::max(1, static_cast<int>(quota_cpus(root, affinity_cpus())));
}

}  // namespace cutwork
