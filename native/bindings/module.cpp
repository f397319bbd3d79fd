// The module cutwork._native (docs/engine.md).
#include <nanobind/nanobind.h>

#include "bindings/bindings.h"

NB_MODULE(_native, m) {
#ifdef NDEBUG
  // What threads still hold when an interrupted process ends is nothing that users can act on.
  nanobind::set_leak_warnings(false);
#endif
  m.doc() = "Linear kernels and the executor.";
  bind_weight(m);
  bind_logits(m);
  bind_costs(m);
  bind_executor(m);
  bind_bandwidth(m);
}
