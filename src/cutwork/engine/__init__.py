"""The CPU engine: KV cache, decoding and the `Model` that ties them together. No torch here.

An architecture writes a flat plan of coarse ops; the native executor (or the NumPy reference) runs it.
"""
