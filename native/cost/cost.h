// How long a linear takes by each algorithm, predicted from a few measured constants, and so which one to use.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kernels/isa.h"

namespace cutwork {

// What the cost of a weight [rows, cols] depends on.
struct Shape {
  Encoding encoding;
  DType dtype;
  int64_t rows, cols, nonzeros;
  int64_t reordered = 0;            // the weight's reordered_bytes: what spmm_rows reads instead, 0 if there is none
  SlotForm form = SlotForm::tiles;  // of slots
};

Shape shape_of(const Weight& weight);  // a dense weight counts as full, an int4 bitmask with its padding

// What one thread needs, in picoseconds.
struct Cost {
  double position;    // to decompress or lay out a weight, for each position of it
  double nonzero;     // the same, for each nonzero
  double product;     // for each multiplication: of nonzeros where zeros are skipped, else of all positions
  double listed = 0;  // where zeros are skipped, to find and begin lists of nonzeros, for each position and token
  double output = 0;  // for each output and token
};

// How often each constant counts.
struct Work {
  double positions, nonzeros, products, listed, outputs;
};

// Whose built-in costs differ: AMD's Zen 3 and 4, Intel's and all others.
enum class Processor { zen4, intel, other };
constexpr Processor kProcessors[] = {Processor::zen4, Processor::intel, Processor::other};
Processor this_processor();
const char* processor_name(Processor processor);

// The constants of a machine and instruction set. gemv takes as long as its arithmetic, shared by the threads, or as
// reading the weight once, whichever is more, and so do slots and spmm_rows of a reordered weight; the others take both
// times, since they multiply what they have read before.
class Costs {
 public:
  explicit Costs(const Isa& isa, Processor processor = this_processor());  // the built-in ones

  // Of an algorithm for an encoding and dtype, by a name like "gemv bitmask i8". A negative one has not been measured.
  // Throws std::invalid_argument for an unknown name.
  Cost& at(const std::string& name);
  std::vector<std::pair<std::string, Cost>> all() const;  // those that the instruction set has

  double seconds(const Shape& shape, Algorithm algorithm, int64_t tokens, int threads) const;

  // The cheapest algorithm for a whole weight, as if by one thread: neither the number of threads nor the rows of one
  // call may matter, lest sums of floats change with them, nor may a few tokens more or less, which gemv multiplies
  // alike. Reordered weights, whose sums are exact, have to win with
  // the bandwidth that each of the threads gets.
  Algorithm choose(const Shape& shape, int64_t tokens, int threads = 1) const;

  Work work(const Shape& shape, Algorithm algorithm, int64_t tokens) const;

  const Isa& isa() const { return *isa_; }

  double one_thread, all_threads;  // read bandwidth, bytes per second

 private:
  // How often the algorithm reads and decompresses the weight.
  double passes(const Shape& shape, Algorithm algorithm, int64_t tokens) const;
  const Cost& get(Algorithm algorithm, Encoding encoding, DType dtype) const;

  const LinearKernels& kernels() const { return isa_->kernels.linear; }

  const Isa* isa_;
  double uneven_;  // by which int4's strips of slots take longer to read than other weights
  std::array<Cost, kKernelCount> costs_;
};

double stored_bytes(const Shape& shape);

const char* algorithm_name(Algorithm algorithm);
Algorithm parse_algorithm(const char* name);  // throws std::invalid_argument for an unknown name

}  // namespace cutwork
