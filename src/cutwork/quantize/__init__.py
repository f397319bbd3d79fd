"""Quantisation that keeps every zero: round-to-nearest and masked GPTQ, written as compressed-tensors checkpoints.

Zero is always code 0, and no method here may write into a pruned position.
"""
