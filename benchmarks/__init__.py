"""What is measured, each script run by `python -m`:

engine       kernels, threads, encoders, loading, packing, drafts
isa          whole models on every instruction set, beside llama.cpp
peers        the same models in other engines
training     pruning, losses, bits, memory, zeros that stay, the demo
compress     choices by budget, drafts
evidence     announced experiments, accuracy against speed
embedding    encoders that make vectors, beside other engines
translation  a T5: its quality and its speed
speech       Whisper: data, word errors, speed
serving      many clients at once; requests made from the schema

common holds what they share, claims what the results say in a sentence each; tables.py writes results and claims
into README.md and docs/.
"""
