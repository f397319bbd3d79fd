#include "runtime/pool.h"

#include <unistd.h>

#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#include "runtime/cpus.h"

namespace cutwork {
namespace {

constexpr std::chrono::microseconds kSpin{
    60};  // longer than the gaps within a step, shorter than waking a thread twice

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

template <class Ready>
void Gate::wait(const Ready& ready, std::chrono::nanoseconds spin) {
  if (spin.count() > 0) {
    const auto deadline = std::chrono::steady_clock::now() + spin;
    do {
      for (int i = 0; i < 64; ++i) {
        if (ready()) return;
        relax();
      }
    } while (std::chrono::steady_clock::now() < deadline);
  }
  std::unique_lock<std::mutex> lock(mutex_);
  sleepers_.fetch_add(1);  // before ready() is read, as open() reads it after the change: one of the two sees the other
  changed_.wait(lock, ready);
  sleepers_.fetch_sub(1);
}

void Gate::open() {
  if (sleepers_.load() == 0) return;
  {
    std::lock_guard<std::mutex> lock(mutex_);
  }  // a sleeper is past its check only once it waits
  changed_.notify_all();
}

struct ThreadPool::Shared {
  Call call = nullptr;
  const void* context = nullptr;
  alignas(64) std::atomic<uint64_t> round{0};  // one per call of run()
  std::atomic<bool> stop{false};
  alignas(64) std::atomic<int> running{0};  // workers that have not finished this round
  alignas(64) Gate start;
  Gate finish;
  std::mutex mutex;
  std::exception_ptr failure;

  void guarded(int thread) {
    try {
      call(context, thread);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  }

  void work(int thread, std::chrono::nanoseconds spin) {
    for (uint64_t seen = 0;; ++seen) {
      start.wait([&] { return round.load() != seen || stop.load(); }, spin);
      if (stop.load()) return;
      guarded(thread);
      if (running.fetch_sub(1) == 1) finish.open();
    }
  }
};

ThreadPool::ThreadPool(int threads)
    : threads_(threads),
      process_(getpid()),
      spin_(threads <= default_threads() ? std::chrono::nanoseconds(kSpin) : std::chrono::nanoseconds(0)),
      shared_(new Shared) {
  try {
    for (int thread = 1; thread < threads; ++thread) {
      workers_.emplace_back([shared = shared_.get(), thread, spin = spin_] { shared->work(thread, spin); });
    }
  } catch (const std::system_error&) {
    shared_->stop.store(true);
    shared_->start.open();
    for (std::thread& worker : workers_) worker.join();
    throw std::runtime_error("the system refuses to start " + std::to_string(threads) + " threads");
  }
}

ThreadPool::~ThreadPool() {
  if (getpid() != process_) {  // the threads are the parent's; whatever they were waiting on must not be touched
    for (std::thread& worker : workers_) worker.detach();
    (void)shared_.release();
    return;
  }
  shared_->stop.store(true);
  shared_->start.open();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::check_process() const {
  if (threads_ > 1 && getpid() != process_)
    throw std::runtime_error("an executor cannot be used after fork(): make it in the child process");
}

void ThreadPool::run(Call call, const void* context) {
  if (threads_ == 1) return call(context, 0);
  Shared& shared = *shared_;
  shared.call = call;
  shared.context = context;
  shared.running.store(threads_ - 1);
  shared.round.fetch_add(1);
  shared.start.open();
  shared.guarded(0);
  shared.finish.wait([&] { return shared.running.load() == 0; }, spin_);
  if (shared.failure) std::rethrow_exception(std::exchange(shared.failure, nullptr));
}

}  // namespace cutwork
