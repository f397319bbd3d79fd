"""From stored weights to what an executor reads, and what multiplying them costs."""
