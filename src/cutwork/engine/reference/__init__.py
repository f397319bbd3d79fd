"""The executor written in NumPy: slow, plain, what the native one is compared with."""
