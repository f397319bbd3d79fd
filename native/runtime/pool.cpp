#include "runtime/pool.h"

#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#include "runtime/cpus.h"
#include "runtime/system.h"

namespace cutwork {
namespace {

// Longer than the gaps within a step, shorter than waking a thread twice.
constexpr std::chrono::microseconds kSpin{60};

// Pauses for which another thread's end is waited for before it is looked whether its share is left: looking takes the
// line of its queue away from it.
constexpr int kPatience = 32;

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Whether ready() holds now or becomes so within moments.
template <class Ready>
bool soon(const Ready& ready) {
  for (int i = 0; i < kPatience; ++i) {
    if (ready()) return true;
    relax();
  }
  return false;
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

// What threads have in common, each line of the cache written by as few of them as can be: between two cores one takes
// as long as hundreds of instructions.
struct ThreadPool::Shared {
  // In one word a round's number and how many parts it has, in a queue how many of them have been taken in that round.
  static constexpr int kPartBits = 16;
  static constexpr uint64_t kParts = kMostParts;
  static_assert(kParts == (uint64_t{1} << kPartBits) - 1);

  // The parts that are a thread's own unless others are done before it. It is set anew by whoever first takes one of
  // them: a round ends when all its parts are done, so that until then every queue with parts is of that round, or of
  // one before and untouched.
  struct alignas(64) Queue {
    std::atomic<uint64_t> taken{0};
  };

  explicit Shared(int threads) : queues(static_cast<size_t>(threads)) {}

  alignas(64) std::atomic<uint64_t> round{0};
  Call call = nullptr;  // this and `context` are of `round`: to be read only while one has a part of it to do
  const void* context = nullptr;
  alignas(64) std::atomic<uint64_t> done{0};  // parts that others than the caller have done since the beginning
  alignas(64) uint64_t expected = 0;          // of `done`, after this round
  alignas(64) std::vector<Queue> queues;
  std::atomic<bool> stop{false};
  Gate start, finish;
  std::mutex mutex;
  std::exception_ptr failure;

  // The next part of a queue, or -1 if none is left, also because that round is over.
  int64_t take(size_t queue, uint64_t now) {
    const uint64_t parts = now & kParts, count = queues.size();
    const uint64_t first = queue * parts / count, end = (queue + 1) * parts / count;
    std::atomic<uint64_t>& taken = queues[queue].taken;
    for (uint64_t seen = taken.load();;) {
      const uint64_t number = seen >> kPartBits, before = number == now >> kPartBits ? seen & kParts : 0;
      if (number > now >> kPartBits || first + before >= end) return -1;
      if (taken.compare_exchange_weak(seen, ((now >> kPartBits) << kPartBits) + before + 1))
        return static_cast<int64_t>(first + before);
    }
  }

  // Does what is left of a queue; returns how many parts that was.
  uint64_t empty(size_t queue, uint64_t now, int thread) {
    uint64_t count = 0;
    for (int64_t part; (part = take(queue, now)) >= 0; ++count) {
      try {
        call(context, part, thread);
      } catch (...) {
        std::lock_guard<std::mutex> lock(mutex);
        if (!failure) failure = std::current_exception();
      }
    }
    return count;
  }

  // The same for the queues of the others.
  uint64_t help(uint64_t now, int thread) {
    uint64_t count = 0;
    for (size_t i = 1; i < queues.size(); ++i)
      count += empty((static_cast<size_t>(thread) + i) % queues.size(), now, thread);
    return count;
  }

  void add_done(uint64_t count) {
    if (count == 0) return;
    done.fetch_add(count);
    finish.open();
  }

  void work(int thread, std::chrono::nanoseconds spin) {
    for (uint64_t seen = 0;;) {
      const auto called = [&] { return round.load() != seen || stop.load(); };
      start.wait(called, spin);
      if (stop.load()) return;
      seen = round.load();
      add_done(empty(static_cast<size_t>(thread), seen, thread));
      if (!soon(called)) add_done(help(seen, thread));
    }
  }
};

ThreadPool::ThreadPool(int threads)
    : threads_(threads),
      process_(process_id()),
      spin_(threads <= default_threads() ? std::chrono::nanoseconds(kSpin) : std::chrono::nanoseconds(0)),
      shared_(new Shared(threads)) {
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
  // In a child the threads are the parent's: whatever they were waiting on must not be touched, nor their handles,
  // which may be those of the child's own threads by now.
  if (process_id() != process_) {
    (void)new std::vector<std::thread>(std::move(workers_));
    (void)shared_.release();
    return;
  }
  join();
}

void ThreadPool::check_process() const {
  if (threads_ > 1 && process_id() != process_)
    throw std::runtime_error("an executor cannot be used after fork(): make it in the child process");
}

void ThreadPool::run(int64_t parts, Call call, const void* context) {
  Shared& shared = *shared_;
  shared.call = call;
  shared.context = context;
  const uint64_t number = (shared.round.load() >> Shared::kPartBits) + 1;
  const uint64_t now = (number << Shared::kPartBits) + static_cast<uint64_t>(parts);
  shared.round.store(now);
  shared.start.open();
  shared.expected += static_cast<uint64_t>(parts) - shared.empty(0, now, 0);
  const auto finished = [&] { return shared.done.load() == shared.expected; };
  if (!soon(finished)) {
    shared.expected -= shared.help(now, 0);
    shared.finish.wait(finished, spin_);
  }
  if (shared.failure) std::rethrow_exception(std::exchange(shared.failure, nullptr));
}

}  // namespace cutwork
