// The machine's read bandwidth, measured: the roofline that `cutwork explain` and the benchmarks compare with.
#include <nanobind/nanobind.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <new>
#include <span>
#include <stdexcept>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/parallel.h"
#include "runtime/allocation.h"

namespace nb = nanobind;

namespace {

// Words. As the kernels fetch what memory gives at its speed; the hardware alone does not reach what they do.
constexpr size_t kFar = 2048, kNear = 256;

uint64_t sum(const uint64_t* begin, const uint64_t* end) {
  uint64_t lanes[16] = {};
  for (; begin + 16 <= end; begin += 16) {
    for (size_t line = 0; line < 16; line += 8) {
      __builtin_prefetch(begin + line + kFar, 0, 2);
      __builtin_prefetch(begin + line + kNear);
    }
    for (int i = 0; i < 16; i++) lanes[i] += begin[i];
  }
  uint64_t total = 0;
  for (uint64_t lane : lanes) total += lane;
  return total;
}

double read_bandwidth(int threads, int64_t megabytes, int repeats) {
  if (threads < 1 || threads > 1024 || megabytes < 1 || megabytes > 16384 || repeats < 1) {
    throw std::invalid_argument("read_bandwidth: threads 1 to 1024, megabytes 1 to 16384, repeats at least 1");
  }
  nb::gil_scoped_release release;
  // In pages like those of a model's weights: from small ones a Xeon reads a seventh to a third less.
  const cutwork::Allocation memory = [&] {
    try {
      return cutwork::Allocation(megabytes << 20, "what read_bandwidth reads", "ask for fewer megabytes");
    } catch (const cutwork::OutOfMemory&) {
      throw std::bad_alloc();  // Python's MemoryError
    }
  }();
  const std::span<uint64_t> data(reinterpret_cast<uint64_t*>(memory.data()), static_cast<size_t>(megabytes) << 17);
  std::ranges::fill(data, 1);
  std::vector<uint64_t> totals(static_cast<size_t>(threads) * 16);
  double best = 0;
  for (int repeat = 0; repeat < repeats; repeat++) {
    const auto start = std::chrono::steady_clock::now();
    const size_t share = data.size() / static_cast<size_t>(threads);
    cutwork::in_parallel(threads, [&](int i, int) {
      const uint64_t* begin = data.data() + share * static_cast<size_t>(i);
      totals[static_cast<size_t>(i) * 16] += sum(begin, begin + share);
    });
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, static_cast<double>(data.size() * sizeof(uint64_t)) / seconds);
  }
  if (totals[0] == 0) throw std::logic_error("read_bandwidth read nothing");
  return best;
}

}  // namespace

void bind_bandwidth(nb::module_& m) {
  m.def("read_bandwidth", &read_bandwidth, nb::arg("threads") = 1, nb::arg("megabytes") = 512, nb::arg("repeats") = 6,
        "Bytes per second at which `threads` threads together read a buffer of so many megabytes, in huge pages where "
        "there are any, again and again; the best of `repeats` passes. What fits into a cache is read from there.");
}
