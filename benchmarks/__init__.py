"""What is measured, each script run by `python -m`:

engine       kernels, instruction sets, threads, encoders, loading, packing, parity, drafts
peers        the same models in other engines
training     pruning, losses, bits, memory, zeros that stay, the demo
embedding    encoders that make vectors, beside other engines
translation  a T5: its quality and its speed
speech       Whisper: data, word errors, speed
serving      many clients at once; requests made from the schema

common holds what they share, claims what the results say in a sentence each; tables.py writes results and claims
into README.md and docs/.
"""
