"""The experiment that docs/experiments.md announces: SmolLM2-135M, GSM-Symbolic, zeros and losses."""
