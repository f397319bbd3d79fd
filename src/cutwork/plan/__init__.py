"""The plan of a forward pass: what architectures write and executors run. NumPy only."""
