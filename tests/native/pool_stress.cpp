// Threads of a pool under a race detector: every element done once and only once, whatever the shapes, the pauses and
// the exceptions. Exits with 1 where that is not so.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "runtime/pool.h"

namespace {

bool stress(int threads, int rounds, unsigned seed) {
  cutwork::ThreadPool pool(threads);
  std::mt19937 random(seed);
  std::vector<int> times, wanted;  // no atomics: two threads on one element are a race
  for (int round = 0; round < rounds; ++round) {
    const int64_t count = random() % (round % 50 == 0 ? 200000 : 100), grain = 1 + random() % 8;
    const bool throws = random() % 16 == 0;
    times.assign(static_cast<size_t>(count), 0);
    wanted.assign(static_cast<size_t>(count), 1);
    bool thrown = false;
    try {
      pool.for_ranges(count, grain, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) ++times[static_cast<size_t>(i)];
        if (throws && begin == 0) throw std::runtime_error("the first range");
      });
    } catch (const std::runtime_error&) {
      thrown = true;
    }
    if (times != wanted || thrown != (throws && count > 0)) {
      std::printf("%d threads, round %d: %lld elements by %lld\n", threads, round, static_cast<long long>(count),
                  static_cast<long long>(grain));
      return false;
    }
    if (random() % 64 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 300));  // till they sleep
  }
  return true;
}

}  // namespace

int main() {
  for (int threads : {1, 2, 3, 8})
    if (!stress(threads, 4000, static_cast<unsigned>(threads))) return 1;
  return 0;
}
