"""The packed format: encodings, writer and validating reader. No torch here.

Whatever a kernel trusts is checked when a file is read, not when it is used.
"""
