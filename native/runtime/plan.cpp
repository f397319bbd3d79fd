#include "runtime/plan.h"

#include <cmath>
#include <initializer_list>
#include <stdexcept>

#include "kernels/attention/attention.h"

namespace cutwork {
namespace {

// Far above any model, and small enough that sums and products of two of them cannot overflow.
constexpr int64_t kMaxSize = int64_t{1} << 30;

std::string text(int64_t number) {
  return std::to_string(number);
}

[[noreturn]] void refuse(const std::string& why) {
  throw std::invalid_argument(why);
}

void require(bool holds, const std::string& why) {
  if (!holds) refuse(why);
}

class Verifier {
 public:
  explicit Verifier(const Plan& plan) : plan_(plan), spoilt_by_(plan.buffers.size(), kUnwritten) {}

  void check(const AnyOp& op) {
    std::visit(
        [this](const auto& each) {
          check_fields(each);
          check_op(each);
        },
        op);
    appends_ = std::holds_alternative<KvAppend>(op);
  }

  // Whether something is left of a step after the last op.
  bool has_result() const { return ended_ || appends_; }

  bool ended() const { return ended_; }

 private:
  static constexpr int64_t kValid = -1, kUnwritten = -2;

  // What holds of every op: what it reads has been written, what it names exists, and its numbers are finite.
  template <class Op>
  void check_fields(const Op& op) const {
    for_each_field<Op>([&](const auto& field) { check_field(field.name, field.role, op.*field.member); });
  }

  void check_field(const char* name, Role role, int64_t value) const {
    if (value == -1 && (role == Role::optional_buffer_in || role == Role::optional_vector)) return;
    if (role == Role::buffer_in || role == Role::optional_buffer_in) read(value, name);
    if (role == Role::buffer_out) known(value, name);
    if (role == Role::weight) weight_of(value);
    if (role == Role::vector || role == Role::optional_vector) vector_of(value, name, -1);
  }

  void check_field(const char* name, Role role, const std::vector<int64_t>& values) const {
    for (int64_t value : values) {
      if (role == Role::buffers_in) read(value, name);
      if (role == Role::buffers_out) known(value, name);
      if (role == Role::weights) weight_of(value);
      if (role == Role::optional_vectors && value != -1) vector_of(value, name, -1);
    }
  }

  static void check_field(const char* name, Role, float value) {
    require(std::isfinite(value), std::string(name) + " is not finite");
  }

  static void check_field(const char*, Role, Activation) {}

  void check_op(const Embed& op) {
    write(op.out, "out", false);
    const Weight& weight = weight_of(op.weight);
    require(weight.cols == width(op.out), "out has width " + text(width(op.out)) + ", weight " + text(op.weight) +
                                              " has " + text(weight.cols) + " columns");
  }

  void check_op(const Input& op) {
    write(op.out, "out", false);
    require(inputs_++ == 0, "is the second of its kind");
  }

  void check_op(const AddPositions& op) {
    per_token(op.x, "x");
    write_like(op.x, op.out, "out", {});
    require(!overlap(op.x, op.out), "out overlaps x");
    const Weight& weight = weight_of(op.weight);
    require(weight.cols == width(op.x), "x has width " + text(width(op.x)) + ", weight " + text(op.weight) + " has " +
                                            text(weight.cols) + " columns");
  }

  void check_op(const Unfold& op) {
    require(!op.xs.empty() && op.xs.size() == op.shifts.size(), "xs and shifts must be lists of one length, not empty");
    int64_t sum = 0;
    for (size_t i = 0; i < op.xs.size(); ++i) {
      per_token(op.xs[i], "xs");
      require(op.shifts[i] >= -kMaxSize && op.shifts[i] <= kMaxSize, "a shift is too large");
      sum += width(op.xs[i]);
    }
    write(op.out, "out", false);
    require(sum == width(op.out), "out has width " + text(width(op.out)) + " instead of " + text(sum));
    for (int64_t x : op.xs) require(!overlap(op.out, x), "out overlaps one of xs");
  }

  void check_op(const RmsNorm& op) {
    write_like(op.x, op.out, "out", {op.x});
    require(op.groups > 0 && width(op.x) % op.groups == 0,
            "groups is " + text(op.groups) + ", which does not divide the width " + text(width(op.x)));
    vector_of(op.weight, "weight", width(op.x) / op.groups);
    require(op.eps >= 0, "eps is negative");
  }

  void check_op(const LayerNorm& op) {
    write_like(op.x, op.out, "out", {op.x});
    vector_of(op.weight, "weight", width(op.x));
    if (op.bias != -1) vector_of(op.bias, "bias", width(op.x));
    require(op.eps >= 0, "eps is negative");
  }

  void check_op(const Slice& op) {
    write(op.out, "out", buffer(op.x).wanted_rows);
    require(!overlap(op.x, op.out), "out overlaps x");
    require(op.pieces >= 1 && op.pieces <= width(op.out) && width(op.out) % op.pieces == 0,
            "pieces is " + text(op.pieces) + ", which does not divide the width " + text(width(op.out)));
    const int64_t piece = width(op.out) / op.pieces;
    require(op.first >= 0 && op.first <= kMaxSize && op.stride >= piece && op.stride <= kMaxSize &&
                op.first + (op.pieces - 1) * op.stride + piece <= width(op.x),
            "the pieces reach beyond the width " + text(width(op.x)));
  }

  void check_op(const Add& op) {
    require(same_shape(op.x, op.y), "x and y differ in shape");
    write_like(op.x, op.out, "out", {});
    require(!overlap(op.out, op.x) && !overlap(op.out, op.y), "out overlaps an input");
  }

  void check_op(const Clip& op) {
    write_like(op.x, op.out, "out", {op.x});
    require(op.limit >= 0, "limit is negative");
  }

  void check_op(const Linear& op) {
    require(!op.outs.empty() && op.outs.size() == op.weights.size() && op.outs.size() == op.biases.size(),
            "outs, weights and biases must be lists of one length, not empty");
    for (size_t i = 0; i < op.outs.size(); ++i) {
      const int64_t out = op.outs[i];
      for (size_t j = 0; j < i; ++j) require(!overlap(out, op.outs[j]), "two of outs overlap");
      write(out, "outs", buffer(op.x).wanted_rows);
      require(!overlap(out, op.x), "an output overlaps x");
      if (op.residual != -1) {
        require(!overlap(out, op.residual), "an output overlaps the residual");
        require(same_shape(out, op.residual), "the residual differs in shape from an output");
      }
      multiplies(op.weights[i], op.x, width(out));
      if (op.biases[i] != -1) vector_of(op.biases[i], "biases", width(out));
    }
  }

  void check_op(const LowRank& op) {
    per_token(op.x, "x");
    per_token(op.y, "y");
    write(op.low, "low", false);
    for (int64_t input : {op.x, op.y}) require(!overlap(op.low, input), "low overlaps an input");
    require(!overlap(op.x, op.y), "x and y overlap");
    multiplies(op.down, op.x, width(op.low));
    vector_of(op.up, "up", width(op.low) * width(op.y));
    spoilt_by_[static_cast<size_t>(op.low)] = kUnwritten;  // in rows without the adapter
    require(op.adapter >= 0 && op.adapter < kMaxAdapters,
            "adapter is " + text(op.adapter) + ", which is not between 0 and " + text(kMaxAdapters - 1));
  }

  void check_op(const Rope& op) {
    per_token(op.x, "x");
    write_like(op.x, op.out, "out", {op.x});
    heads_fit(op.heads, op.head_dim, op.x, "x");
    const int64_t half = vector_of(op.inv_freq, "inv_freq", -1);
    require(half > 0, "inv_freq has no entries");
    require(2 * half <= op.head_dim, "inv_freq has " + text(half) + " entries, more than half of head_dim");
  }

  void check_op(const KvAppend& op) {
    const CacheShape& cache = layer(plan_.cache, op.cache);
    for (int64_t from : {op.k, op.v}) {
      per_token(from, "k and v");
      require(width(from) == cache.kv_heads * cache.head_dim,
              "k and v must have width kv_heads * head_dim of the cache");
    }
    appended_.push_back(op.cache);
  }

  void check_op(const Attention& op) {
    attends(op, plan_.cache);
    require(op.window == -1 || op.window >= 1, "window must be -1 or positive");
    if (op.slopes != -1) vector_of(op.slopes, "slopes", op.heads);
    if (op.bias != -1) bias_of(op.bias, op.heads);
    bool appended = false;
    for (int64_t each : appended_) appended = appended || each == op.cache;
    require(appended, "nothing is appended to cache layer " + text(op.cache) + " before");
  }

  void check_op(const SelfAttention& op) {
    for (int64_t from : {op.q, op.k, op.v}) {
      per_token(from, "q, k and v");
      require(same_shape(from, op.q), "q, k and v differ in shape");
    }
    write_like(op.q, op.out, "out", {op.q});
    require(!overlap(op.out, op.k) && !overlap(op.out, op.v), "out overlaps k or v");
    heads_fit(op.heads, op.head_dim, op.q, "q");
    cap_of(op.cap);
    if (op.bias != -1) {
      const int64_t entries = bias_of(op.bias, op.heads);
      require(entries % 2 == 1, "bias has " + text(entries) + " entries per head, which is not an odd number");
    }
    require(self_heads_ == 0 || (self_heads_ == op.heads && self_head_dim_ == op.head_dim),
            "heads and head_dim differ from those of another self_attention");
    self_heads_ = op.heads;
    self_head_dim_ = op.head_dim;
  }

  void check_op(const CrossAttention& op) { attends(op, plan_.memory); }

  void check_op(const Gated& op) {
    require(same_shape(op.gate, op.up), "gate and up differ in shape");
    write_like(op.gate, op.out, "out", {op.gate, op.up});
  }

  void check_op(const GatherRows& op) {
    per_token(op.x, "x");
    write(op.out, "out", true);
    require(width(op.x) == width(op.out), "x and out differ in width");
    require(!overlap(op.x, op.out), "out overlaps x");
  }

  void check_op(const Logits& op) {
    require(buffer(op.x).wanted_rows, "x must be a buffer with rows \"R\"");
    const int64_t vocabulary = weight_of(op.weight).rows;
    multiplies(op.weight, op.x, vocabulary);
    if (op.bias != -1) vector_of(op.bias, "bias", vocabulary);
    cap_of(op.cap);
    ended_ = true;
  }

  void check_op(const Output& op) {
    require(buffer(op.x).wanted_rows, "x must be a buffer with rows \"R\"");
    ended_ = true;
  }

  const Buffer& buffer(int64_t id) const { return plan_.buffers[static_cast<size_t>(id)]; }
  int64_t width(int64_t id) const { return buffer(id).width; }

  bool same_shape(int64_t a, int64_t b) const {
    return width(a) == width(b) && buffer(a).wanted_rows == buffer(b).wanted_rows;
  }
  bool overlap(int64_t a, int64_t b) const {
    return buffer(a).offset < buffer(b).offset + width(b) && buffer(b).offset < buffer(a).offset + width(a);
  }

  void known(int64_t id, const char* field) const {
    require(
        id >= 0 && id < static_cast<int64_t>(plan_.buffers.size()),
        std::string(field) + " names buffer " + text(id) + " of " + text(static_cast<int64_t>(plan_.buffers.size())));
  }

  void read(int64_t id, const char* field) const {
    known(id, field);
    const int64_t state = spoilt_by_[static_cast<size_t>(id)];
    require(state != kUnwritten,
            std::string(field) + " names buffer " + text(id) + " before anything is written to it");
    require(state == kValid, std::string(field) + " names buffer " + text(id) + ", whose memory buffer " + text(state) +
                                 " has taken over");
  }

  void write(int64_t id, const char* field, bool wanted_rows) {
    require(buffer(id).wanted_rows == wanted_rows, std::string(field) + " names buffer " + text(id) +
                                                       ", which must have rows \"" + (wanted_rows ? "R\"" : "T\""));
    for (size_t other = 0; other < spoilt_by_.size(); ++other) {
      if (spoilt_by_[other] == kValid && overlap(id, static_cast<int64_t>(other))) spoilt_by_[other] = id;
    }
    spoilt_by_[static_cast<size_t>(id)] = kValid;
  }

  // A buffer of the shape of `x`, apart from the inputs or exactly one of them.
  void write_like(int64_t x, int64_t out, const char* field, std::initializer_list<int64_t> inputs) {
    write(out, field, buffer(x).wanted_rows);
    require(width(out) == width(x), std::string(field) + " differs in width from its input");
    for (int64_t input : inputs)
      require(!overlap(out, input) || buffer(out).offset == buffer(input).offset,
              std::string(field) + " overlaps an input without being it");
  }

  void per_token(int64_t id, const char* field) const {
    require(!buffer(id).wanted_rows, std::string(field) + " must have a row per token");
  }

  const Weight& weight_of(int64_t id) const {
    require(id >= 0 && id < static_cast<int64_t>(plan_.weights.size()),
            "names weight " + text(id) + " of " + text(static_cast<int64_t>(plan_.weights.size())));
    return plan_.weights[static_cast<size_t>(id)];
  }

  void multiplies(int64_t id, int64_t x, int64_t rows) const {
    const Weight& weight = weight_of(id);
    require(weight.cols == width(x) && weight.rows == rows, "weight " + text(id) + " is [" + text(weight.rows) + ", " +
                                                                text(weight.cols) + "], the buffers need [" +
                                                                text(rows) + ", " + text(width(x)) + "]");
  }

  int64_t vector_of(int64_t id, const char* field, int64_t length) const {
    require(
        id >= 0 && id < static_cast<int64_t>(plan_.vectors.size()),
        std::string(field) + " names vector " + text(id) + " of " + text(static_cast<int64_t>(plan_.vectors.size())));
    const auto size = static_cast<int64_t>(plan_.vectors[static_cast<size_t>(id)].size());
    require(length < 0 || size == length, std::string(field) + " names vector " + text(id) + " of " + text(size) +
                                              " entries instead of " + text(length));
    return size;
  }

  static const CacheShape& layer(const std::optional<CacheShape>& cache, int64_t id) {
    require(cache.has_value(), "needs a cache");
    require(id >= 0 && id < cache->layers, "names cache layer " + text(id) + " of " + text(cache->layers));
    return *cache;
  }

  template <class Attending>
  void attends(const Attending& op, const std::optional<CacheShape>& keys) {
    const CacheShape& cache = layer(keys, op.cache);
    per_token(op.q, "q");
    write_like(op.q, op.out, "out", {op.q});
    heads_fit(op.heads, op.head_dim, op.q, "q");
    require(op.kv_heads == cache.kv_heads && op.head_dim == cache.head_dim,
            "kv_heads and head_dim differ from the cache's");
    require(op.heads % op.kv_heads == 0, "heads is not a multiple of kv_heads");
    cap_of(op.cap);
  }

  static void cap_of(float cap) { require(cap >= 0, "cap is negative"); }

  // Entries per head.
  int64_t bias_of(int64_t id, int64_t heads) const {
    const int64_t entries = vector_of(id, "bias", -1);
    require(entries >= heads && entries % heads == 0, "bias names vector " + text(id) + " of " + text(entries) +
                                                          " entries, which is not a multiple of the heads");
    return entries / heads;
  }

  void heads_fit(int64_t heads, int64_t head_dim, int64_t id, const char* field) const {
    require(heads > 0 && head_dim > 0 && heads <= kMaxSize && head_dim <= kMaxSize && heads * head_dim == width(id),
            std::string(field) + " must have width heads * head_dim");
  }

  const Plan& plan_;
  std::vector<int64_t> spoilt_by_;  // per buffer: kValid, kUnwritten, or the buffer that was written over it
  std::vector<int64_t> appended_;
  bool ended_ = false, appends_ = false;
  int64_t self_heads_ = 0, self_head_dim_ = 0, inputs_ = 0;
};

void verify_sizes(const Plan& plan) {
  require(plan.threads >= 1 && plan.threads <= 1024, "threads must be between 1 and 1024");
  require(plan.max_tokens >= 1 && plan.max_tokens <= kMaxSize, "max_tokens must be between 1 and 2^30");
  require(plan.max_logits >= 1 && plan.max_logits <= kMaxSize, "max_logits must be between 1 and 2^30");
  for (size_t i = 0; i < plan.buffers.size(); ++i) {
    const Buffer& buffer = plan.buffers[i];
    require(buffer.offset >= 0 && buffer.offset <= kMaxSize && buffer.width >= 1 && buffer.width <= kMaxSize,
            "buffer " + text(static_cast<int64_t>(i)) + " has an impossible offset or width");
  }
  if (plan.cache) verify(*plan.cache);
}

}  // namespace

void verify(const CacheShape& cache) {
  if (cache.layers == 0) return;
  for (int64_t size : {cache.layers, cache.kv_heads, cache.head_dim, cache.block_size, cache.blocks})
    require(size >= 1 && size <= kMaxSize, "every size of the cache must be between 1 and 2^30");
  require(cache.block_size % kKeyTile == 0,
          "the cache's block_size is " + text(cache.block_size) + ", which is not a multiple of " + text(kKeyTile));
  require(cache.dtype == DType::f32 || cache.dtype == DType::bf16 || cache.dtype == DType::i8,
          "the cache's dtype must be f32, bf16 or i8");
}

void verify(const Plan& plan) {
  verify_sizes(plan);
  Verifier verifier(plan);
  for (size_t i = 0; i < plan.ops.size(); ++i) {
    try {
      require(!verifier.ended(), "comes after the step's result");
      verifier.check(plan.ops[i]);
    } catch (const std::invalid_argument& error) {
      const char* kind = std::visit([](const auto& op) { return op.kName; }, plan.ops[i]);
      refuse("op " + std::to_string(i) + " (" + kind + "): " + error.what());
    }
  }
  require(verifier.has_result(), "the plan does not end with logits or an output, nor with keys and values for others");
}

}  // namespace cutwork
