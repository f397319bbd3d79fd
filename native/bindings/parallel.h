// Threads for what is done once, outside of an executor and its pool.
#pragma once

#include <exception>
#include <thread>
#include <vector>

namespace cutwork {

// Runs part(i, parts) for i in [0, parts) on as many threads. What one of them throws is thrown once all have ended;
// std::system_error if there are no more threads.
template <class F>
void in_parallel(int parts, const F& part) {
  std::vector<std::exception_ptr> failures(static_cast<size_t>(parts));
  const auto run = [&](int i) noexcept {
    try {
      part(i, parts);
    } catch (...) {
      failures[static_cast<size_t>(i)] = std::current_exception();
    }
  };
  struct Others : std::vector<std::thread> {
    ~Others() {
      for (std::thread& other : *this) other.join();
    }
  };
  {
    Others others;
    for (int i = 1; i < parts; ++i) others.emplace_back(run, i);
    run(0);
  }
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

}  // namespace cutwork
