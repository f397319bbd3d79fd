#include "runtime/system.h"

#ifdef _WIN32
#define NOMINMAX
#include <windows.h>
#else
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace cutwork {

#ifdef _WIN32
Pages map_pages(int64_t bytes) {
  void* data = VirtualAlloc(nullptr, static_cast<size_t>(bytes), MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
  return {static_cast<char*>(data), bytes};
}

void unmap_pages(const Pages& pages) {
  VirtualFree(pages.data, 0, MEM_RELEASE);
}

int64_t process_id() {
  return GetCurrentProcessId();
}
#else
Pages map_pages(int64_t bytes) {
  constexpr int64_t kHugePage = int64_t{2} << 20;
  const int64_t page = bytes >= kHugePage ? kHugePage : sysconf(_SC_PAGESIZE);
  // One page more than needed, so that a range on the wished boundary is inside; the rest is given back.
  int64_t mapped = 0;
  if (__builtin_add_overflow(bytes, 2 * page, &mapped)) return {};
  const int64_t size = (bytes + page - 1) / page * page;
  mapped = size + page;
  void* start = mmap(nullptr, static_cast<size_t>(mapped), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) return {};
  char* first = static_cast<char*>(start);
  const int64_t before = (page - static_cast<int64_t>(reinterpret_cast<uintptr_t>(first) % page)) % page;
  if (before > 0) munmap(first, static_cast<size_t>(before));
  munmap(first + before + size, static_cast<size_t>(mapped - before - size));
  char* data = first + before;
#ifdef MADV_HUGEPAGE
  if (page == kHugePage) madvise(data, static_cast<size_t>(size), MADV_HUGEPAGE);  // advice: refusal costs speed only
#endif
  return {data, size};
}

void unmap_pages(const Pages& pages) {
  munmap(pages.data, static_cast<size_t>(pages.size));
}

int64_t process_id() {
  return getpid();
}
#endif

}  // namespace cutwork
