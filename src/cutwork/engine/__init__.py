"""The CPU engine: plans, architectures, KV cache, sampling and the `Model` that ties them together. No torch here.

An architecture emits a flat plan of coarse ops; the native executor (or the NumPy reference) runs it.
"""
