"""A small world of sentences in two languages, and a model in T5's format to learn it: what benchmarks/t5.py trains on.

Nothing here is part of the product.
"""
