// Threads that wait for work by spinning a little, then sleeping.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace cutwork {

// Where threads wait for a condition that others bring about by changing atomics.
class Gate {
 public:
  // Returns once ready() holds, after spinning for at most `spin`, then sleeping. ready() must read seq_cst atomics.
  template <class Ready>
  void wait(const Ready& ready, std::chrono::nanoseconds spin);
  // To be called after each change (seq_cst) that may make somebody ready.
  void open();

 private:
  std::atomic<int> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
};

// A fixed number of threads, the caller's among them. Its owner calls for_ranges from one thread at a time.
class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Throws std::runtime_error in a child process, which fork() left without the threads.
  void check_process() const;

  // Calls job(begin, end, thread) for consecutive ranges of [0, count) of about `grain`, neighbours on one thread as
  // far as each has its turn, here and on whichever other threads come, and returns when all are done. A thread that
  // the system keeps from running costs its help only, not a wait: the others take its ranges. With a single range
  // nobody is woken. Rethrows an exception of one of the threads.
  template <class Job>
  void for_ranges(int64_t count, int64_t grain, const Job& job) {
    if (count <= grain || threads_ == 1) {
      if (count > 0) job(int64_t{0}, count, 0);
      return;
    }
    grain = std::max(grain, (count + kMostParts - 1) / kMostParts);
    const auto part = [&](int64_t number, int thread) {
      job(number * grain, std::min(number * grain + grain, count), thread);
    };
    using Part = decltype(part);
    run((count + grain - 1) / grain,
        [](const void* context, int64_t number, int thread) { (*static_cast<const Part*>(context))(number, thread); },
        &part);
  }

 private:
  static constexpr int64_t kMostParts = 0xffff;  // see Shared
  using Call = void (*)(const void* context, int64_t part, int thread);
  struct Shared;

  void run(int64_t parts, Call call, const void* context);
  void join();

  const int threads_;
  const int64_t process_;
  std::chrono::nanoseconds spin_;
  std::unique_ptr<Shared> shared_;
  std::vector<std::thread> workers_;
};

}  // namespace cutwork
