#include "runtime/pool.h"

#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#include "runtime/cpus.h"
#include "runtime/system.h"

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
  // The state of a round: its number, whether it is closed to those who have not come yet, and how many workers are
  // inside.
  static constexpr uint64_t kRound = uint64_t{1} << 32, kClosed = uint64_t{1} << 31, kInside = kClosed - 1;

  Call call = nullptr;
  const void* context = nullptr;
  alignas(64) std::atomic<uint64_t> state{kClosed};
  std::atomic<bool> stop{false};
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
    for (uint64_t seen = 0;;) {
      start.wait([&] { return state.load() / kRound != seen || stop.load(); }, spin);
      if (stop.load()) return;
      uint64_t now = state.load();
      while (!(now & kClosed) && !state.compare_exchange_weak(now, now + 1)) {
      }
      seen = now / kRound;
      if (now & kClosed) continue;
      guarded(thread);
      if (state.fetch_sub(1) - 1 == (now & ~kInside) + kClosed) finish.open();
    }
  }
};

ThreadPool::ThreadPool(int threads)
    : threads_(threads),
      process_(process_id()),
      spin_(threads <= default_threads() ? std::chrono::nanoseconds(kSpin) : std::chrono::nanoseconds(0)),
      shared_(new Shared) {
  workers_.reserve(static_cast<size_t>(threads));
  try {
    for (int thread = 1; thread < threads; ++thread) {
      workers_.emplace_back([shared = shared_.get(), thread, spin = spin_] { shared->work(thread, spin); });
    }
  } catch (const std::system_error&) {
    join();
    throw std::runtime_error("the system refuses to start " + std::to_string(threads) + " threads");
  } catch (...) {
    join();
    throw;
  }
}

void ThreadPool::join() {
  shared_->stop.store(true);
  shared_->start.open();
  for (std::thread& worker : workers_) worker.join();
}

ThreadPool::~ThreadPool() {
  if (process_id() != process_) {  // the threads are the parent's; whatever they were waiting on must not be touched
    for (std::thread& worker : workers_) worker.detach();
    (void)shared_.release();
    return;
  }
  join();
}

void ThreadPool::check_process() const {
  if (threads_ > 1 && process_id() != process_)
    throw std::runtime_error("an executor cannot be used after fork(): make it in the child process");
}

void ThreadPool::run(Call call, const void* context) {
  if (threads_ == 1) return call(context, 0);
  Shared& shared = *shared_;
  shared.call = call;
  shared.context = context;
  shared.state.store((shared.state.load() / Shared::kRound + 1) * Shared::kRound);
  shared.start.open();
  shared.guarded(0);
  shared.state.fetch_or(Shared::kClosed);
  shared.finish.wait([&] { return (shared.state.load() & Shared::kInside) == 0; }, spin_);
  if (shared.failure) std::rethrow_exception(std::exchange(shared.failure, nullptr));
}

}  // namespace cutwork
