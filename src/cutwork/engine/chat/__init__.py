"""Conversations: what a model is given of them, and what in its answer is a thought, a call, or said.

template.py      messages, tools and settings, written by the model's chat template
formats.py       how families write thoughts and calls, as data, and which of them a chat template speaks of
reader.py        an answer, piece by piece, told apart by its format
answer_parts.py  an answer, part by part, for programs
thought.py       a thought that ends within its budget, before an answer that may have to follow a grammar
"""
