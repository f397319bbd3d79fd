// Read bandwidth of main memory: bandwidth THREADS prints GB/s, the best of a few passes over 1 GiB.
#include <sys/mman.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

typedef uint64_t Vector __attribute__((vector_size(64)));

static void read(const Vector* begin, const Vector* end, Vector* result) {
  Vector a[8] = {};
  for (; begin + 8 <= end; begin += 8)
    for (int i = 0; i < 8; ++i) a[i] ^= begin[i];
  for (int i = 1; i < 8; ++i) a[0] ^= a[i];
  *result = a[0];
}

int main(int, char** arguments) {
  const size_t threads = size_t(std::atoi(arguments[1])), bytes = size_t(1) << 30, count = bytes / sizeof(Vector);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 1;
  madvise(memory, bytes, MADV_HUGEPAGE);
  Vector* data = static_cast<Vector*>(memory);
  const Vector one = {1};
  for (size_t i = 0; i < count; ++i) data[i] = one;
  std::vector<Vector> results(threads);
  double best = 0;
  for (int pass = 0; pass < 5; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> readers;
    for (size_t t = 0; t < threads; ++t)
      readers.emplace_back(read, data + count * t / threads, data + count * (t + 1) / threads, &results[t]);
    for (auto& reader : readers) reader.join();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = bytes / seconds.count() / 1e9 > best ? bytes / seconds.count() / 1e9 : best;
  }
  uint64_t check = 0;
  for (const Vector& result : results) check ^= result[0];
  std::printf("%.2f %d\n", best, int(check & 1));
}
