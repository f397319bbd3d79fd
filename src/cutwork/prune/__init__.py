"""Pruning: the stage, what it calibrates with, and the pruners.

Each published method is a file of its own, a pure function on one weight:
`(weight [out, in], statistics, pattern) -> (weight', mask)`; it knows nothing about models.
"""
