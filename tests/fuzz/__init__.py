"""Damaged model directories by the thousand: each loads and runs, or is refused in one sentence.

bases    models of every family, dtype and pattern of zeros, made once
damage   what is done to a copy of one of them
attempt  what is then done with it, in a process of its own
"""
