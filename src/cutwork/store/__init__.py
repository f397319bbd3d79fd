"""Files and directories: what a model directory is, where it comes from, how a new one appears. No torch here.

directory    which kind of model a directory holds, its configuration, the small files beside its weights
resolve      from a path or a name to a directory: hub (the Hugging Face Hub), demo_model (a model known by name)
safetensors  tensors in files, read by mapping and written as they come
checkpoint   tensors by their usual names, however they are stored: renamed, bfloat16, packed_codes
foreign      weights in formats that are not read, and what their owner can do
block_names  what a tensor's or a module's name says of the block it is in
compressed_tensors  how quantised weights are described in a configuration
text_part    the language model inside of one that also sees or hears
bitmask      checkpoints whose zeros are stored as bitmasks, expanded
cache        where what was downloaded or made once is kept
output       a directory that appears whole or not at all
atomic       the same of a file; json_file: JSON objects; partial: how either is told from what killed processes left
examples     prompts of a model's task, beside it
lock         one process at a time; system: what files can do on this system
journal      what unfinished work has done so far; made_of: what finished files were made of
fingerprint  whether a model or a value is still what it was
"""
