"""The experiments that docs/experiments.md announces: what zeros, losses and patterns cost models that are trained."""
