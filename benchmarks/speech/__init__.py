"""Whisper: speech to train and test on, word errors, and speed beside other engines."""
