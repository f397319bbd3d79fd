"""Vectors of texts: how a directory says they are made, texts as tokens, hidden states, and what is made of those."""
