// The module cutwork._native (docs/engine.md).
#include "bindings.h"

#include <nanobind/nanobind.h>

NB_MODULE(_native, m) {
  m.doc() = "Linear kernels and the executor.";
  bind_kernels(m);
  bind_logits(m);
  bind_costs(m);
  bind_runtime(m);
  bind_bandwidth(m);
}
