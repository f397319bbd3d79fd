// Threads that wait for work by spinning a little, then sleeping.
#pragma once

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

// A fixed number of threads, the caller's among them. Its owner calls each_thread and for_ranges from one thread at a
// time.
class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Throws std::runtime_error in a child process, which fork() left without the threads.
  void check_process() const;

  // Calls job(thread) here and on whichever other threads arrive before this one is done, and returns when all that
  // came are done: so job takes its work, piece by piece, from what they share. A thread that the system keeps from
  // running then costs its help only, not a wait. Rethrows an exception of one of the threads.
  template <class Job>
  void share(const Job& job) {
    run([](const void* context, int thread) { (*static_cast<const Job*>(context))(thread); }, &job);
  }

  // Calls job(begin, end, thread) for consecutive ranges of [0, count) of at most `grain`; idle threads take the next
  // one. With a single range nobody is woken.
  template <class Job>
  void for_ranges(int64_t count, int64_t grain, const Job& job) {
    if (count <= grain || threads_ == 1) {
      if (count > 0) job(int64_t{0}, count, 0);
      return;
    }
    std::atomic<int64_t> next{0};
    share([&](int thread) {
      for (int64_t begin; (begin = next.fetch_add(grain, std::memory_order_relaxed)) < count;) {
        job(begin, begin + grain < count ? begin + grain : count, thread);
      }
    });
  }

 private:
  using Call = void (*)(const void* context, int thread);
  struct Shared;

  void run(Call call, const void* context);
  void join();

  const int threads_;
  const int64_t process_;
  std::chrono::nanoseconds spin_;
  std::unique_ptr<Shared> shared_;
  std::vector<std::thread> workers_;
};

}  // namespace cutwork
