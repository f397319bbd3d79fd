"""Pruners: each file holds one published method as a pure function on one weight.

`(weight [out, in], statistics, pattern) -> (weight', mask)`; nothing here knows about models.
"""
