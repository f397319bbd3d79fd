// What operating systems call by different names.
#pragma once

#include <cstdint>

namespace cutwork {

// Zeroed memory of at least so many bytes > 0 on a 64-byte boundary, or a 2 MiB one with huge pages where the system
// has them and the size deserves it; without data where there is none left.
struct Pages {
  char* data;
  int64_t size;
};
Pages map_pages(int64_t bytes);
void unmap_pages(const Pages& pages);

int64_t process_id();

}  // namespace cutwork
