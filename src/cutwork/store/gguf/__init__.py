"""GGUF, llama.cpp's files, as Hugging Face checkpoints. No torch here.

file       what a file holds, mapped and checked
config     its metadata as a Hugging Face configuration; names: its tensors by theirs, laid out as theirs
tokenizer  its vocabulary as tokenizer.json
convert    all of it as a checkpoint in the cache, made once
"""

from cutwork.store.gguf.convert import checkpoint_of, write_gguf_checkpoint

__all__ = ["checkpoint_of", "write_gguf_checkpoint"]
