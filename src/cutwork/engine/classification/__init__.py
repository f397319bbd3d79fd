"""Classes of texts, of pairs of texts and of tokens: a head over hidden states, in NumPy, and what it says in words."""
