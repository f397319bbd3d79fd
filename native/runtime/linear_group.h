// The linear layers of one op: they share their input, and threads share their rows.
#pragma once

#include <utility>
#include <vector>

#include "cost/cost.h"
#include "kernels/kernels.h"
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
struct LinearScratch {
  std::vector<char*> inputs;      // prepared inputs by dtype
  std::vector<char*> rearranged;  // by kernel_index
  std::vector<char*> threads;     // each thread's own
  int64_t thread_bytes;           // of each of those
};

// What an executor lends to whatever runs in it.
struct Context {
  const Kernels& kernels;
  ThreadPool& pool;
  const LinearScratch& scratch;
};

class LinearGroup {
 public:
  LinearGroup(std::vector<Member> members, Activation activation, int threads, const Costs& costs);

  // Bytes that steps of up to `most` tokens need: the prepared input for a dtype and the rearranged one for a kernel (0
  // if unused), and one thread's scratch.
  int64_t input_bytes(const LinearKernels& kernels, DType dtype, int64_t most) const;
  int64_t rearranged_bytes(const LinearKernels& kernels, Algorithm algorithm, Encoding encoding, DType dtype,
                           int64_t most) const;
  int64_t scratch_bytes(const LinearKernels& kernels, int64_t most) const;

  // targets[i] = activation(x * members[i]^T + bias) + residual, for x [tokens, cols].
  void run(const Context& context, const float* x, int64_t tokens, const Target* targets) const;

 private:
  // Rows of one member.
  struct RowRange {
    size_t member;
    int64_t begin, end;
  };
  // How `first` to `last` tokens are multiplied.
  struct Schedule {
    int64_t first, last;
    std::vector<Algorithm> algorithms;         // of each member
    std::vector<size_t> rearranging;           // a member of each kernel that reads the input rearranged
    std::vector<std::vector<RowRange>> parts;  // of about equal cost; a thread takes one after the other

    int64_t at_once(int64_t tokens) const;       // of a step, in equal turns
    int64_t most_at_once(int64_t tokens) const;  // of any step up to `tokens`
  };

  size_t kernel_of(const Schedule& schedule, size_t member) const;
  int64_t part_count(const Schedule& schedule) const;
  double time_of(size_t member, Algorithm algorithm, int64_t tokens, const Costs& costs) const;
  void add_schedule(int64_t first, int64_t last, std::vector<Algorithm> algorithms, const Costs& costs);
  const Schedule& schedule(int64_t tokens) const;
  void run_at_once(const Context& context, const float* x, int64_t tokens, const Target* targets, int64_t first,
                   const Schedule& schedule) const;
  void multiply(const Context& context, int64_t tokens, const Target& target, const Schedule& schedule,
                const RowRange& range, int thread) const;
  void finish_in_order(const Context& context, int64_t tokens, const Target& target, const Member& member,
                       const RowRange& range) const;
  void prepare(const Context& context, const float* x, int64_t tokens, const Schedule& schedule) const;

  std::vector<Member> members_;
  Activation activation_;
  int64_t threads_, rows_ = 0;
  double cost_ = 0;                  // of all members, for one token
  std::vector<DType> dtypes_;        // of the members, each once
  std::vector<Schedule> schedules_;  // by the number of tokens
};

}  // namespace cutwork
