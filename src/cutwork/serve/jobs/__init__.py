"""Threads that own engines, and what waits for them."""
