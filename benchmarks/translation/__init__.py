"""A small world of sentences in two languages, and a model in T5's format that learns it: for translation.accuracy.

Nothing here is part of the product.
"""
