// How long a linear takes by each kernel family, predicted from a few measured constants, and so which one to use.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kernels/linear.h"

namespace cutwork {

// What the cost of a weight [rows, cols] depends on.
struct Shape {
  Encoding encoding;
  DType dtype;
  int64_t rows, cols, nonzeros;
  int64_t reordered = 0;  // the weight's reordered_bytes: what `rows` reads instead, 0 if there is none
};

Shape shape_of(const Weight& weight);  // a dense weight counts as full, an int4 bitmask with its padding

// What one thread needs, in picoseconds: to decompress or lay out a weight, for each position and each nonzero of it;
// for each multiplication, of nonzeros only where zeros are skipped, else of all positions; for each position and token
// where they are skipped, as lists of nonzeros have to be found and begun; and for each output and token.
struct Cost {
  double position, nonzero, product, listed = 0, output = 0;
};

// How often each constant counts.
struct Work {
  double positions, nonzeros, products, listed, outputs;
};

// The constants of a machine and instruction set. gemv takes as long as its arithmetic, shared by the threads, or as
// reading the weight, whichever is more, and so does rows where its steps are there; the others take both times, since
// they multiply what they have read before.
class Costs {
 public:
  explicit Costs(Isa isa);  // the built-in ones

  // Of a family for an encoding and dtype, by a name like "gemv bitmask i8". A negative one has not been measured.
  // Throws std::invalid_argument for an unknown name.
  Cost& at(const std::string& name);
  std::vector<std::pair<std::string, Cost>> all() const;  // those that the instruction set has

  double seconds(const Shape& shape, Family family, int64_t tokens, int threads) const;

  // The cheapest family for a whole weight, as if by one thread: neither the number of threads nor the rows of one call
  // may matter, lest results change with them. Reordered weights have to win with a third of one thread's bandwidth.
  Family choose(const Shape& shape, int64_t tokens) const;

  Work work(const Shape& shape, Family family, int64_t tokens) const;

  Isa isa() const { return isa_; }

  double one_thread, all_threads;  // read bandwidth, bytes per second

 private:
  // How often the family reads and decompresses the weight.
  double passes(const Shape& shape, Family family, int64_t tokens) const;
  const Cost& get(Family family, Encoding encoding, DType dtype) const;

  Isa isa_;
  const LinearKernels& kernels_;
  std::array<Cost, kKernelCount> costs_;
};

double stored_bytes(const Shape& shape);

const char* family_name(Family family);
Family parse_family(const char* name);  // throws std::invalid_argument for an unknown name

}  // namespace cutwork
