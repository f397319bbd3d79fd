// The linear layers of one op: they share their input, and threads share their rows.
#pragma once

#include <utility>
#include <vector>

#include "cost.h"
#include "kernels/elementwise.h"
#include "kernels/linear.h"
#include "runtime/memory.h"
#include "runtime/pool.h"

namespace cutwork {

// One weight of a group and what becomes of its product.
struct Member {
  Weight weight;
  const float* bias;  // [rows] or null
};

// Where one step's result goes: y [tokens, rows], and a residual [tokens, rows] or null.
struct Target {
  float* y;
  const float* residual;
};

// Memory that every group of an executor uses in turn.
struct LinearMemory {
  std::vector<char*> inputs;   // prepared inputs by dtype
  std::vector<char*> scratch;  // by thread
  int64_t scratch_bytes;       // of each
};

class LinearGroup {
 public:
  LinearGroup(std::vector<Member> members, Activation activation, int threads, const Costs& costs);

  // Bytes that steps of up to `tokens` need: the prepared input for a dtype (0 if unused), and one thread's scratch.
  int64_t input_bytes(const LinearKernels& kernels, DType dtype, int64_t tokens) const;
  int64_t scratch_bytes(const LinearKernels& kernels, int64_t tokens) const;

  // targets[i] = activation(x * members[i]^T + bias) + residual, for x [tokens, cols].
  void run(const LinearKernels& kernels, const ElementwiseKernels& elementwise, ThreadPool& pool,
           const LinearMemory& memory, const float* x, int64_t tokens, const Target* targets) const;

 private:
  // Families by the number of tokens from which on each is the cheapest, which rise from 0.
  using Choice = std::vector<std::pair<int64_t, Family>>;
  static Choice choices(const Costs& costs, const Weight& weight);
  static Family family(const Choice& choice, int64_t tokens);

  // Rows of one member.
  struct Slice {
    size_t member;
    int64_t begin, end;
  };

  void multiply(const LinearKernels& kernels, const ElementwiseKernels& elementwise, const LinearMemory& memory,
                int64_t tokens, const Target* targets, const Slice& slice, int thread) const;
  void prepare(const LinearKernels& kernels, ThreadPool& pool, const LinearMemory& memory, const float* x,
               int64_t tokens) const;

  std::vector<Member> members_;
  std::vector<Choice> choices_;  // of each member
  Activation activation_;
  double cost_ = 0;                        // of all members, for one token
  std::vector<DType> dtypes_;              // of the members, each once
  std::vector<std::vector<Slice>> parts_;  // of about equal cost; a thread takes one after the other
};

}  // namespace cutwork
