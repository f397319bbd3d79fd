"""Zeros on every instruction set beside llama.cpp and ik_llama.cpp: whole models at full depth."""
