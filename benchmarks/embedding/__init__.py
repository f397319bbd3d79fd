"""Encoders that make vectors of texts, against other engines: sentences per second."""
