"""What llama-quantize does: SOURCE.gguf TARGET.gguf TYPE [IMPORTANCE.npz], the type one of llama.cpp's names such as
Q4_K_M, the importance matrix by names of its tensors, each float32 [inputs]."""

import sys

import llama_cpp
import numpy as np


def importance_of(file: str) -> "llama_cpp.ctypes.Array":
    """llama.cpp's list of an importance matrix, which a nameless one ends; it refers to arrays, which it keeps."""
    entries = [(name.encode(), np.ascontiguousarray(values, np.float32)) for name, values in np.load(file).items()]
    found = (llama_cpp.llama_model_imatrix_data * (len(entries) + 1))()
    for entry, (name, values) in zip(found, entries, strict=False):
        entry.name, entry.size = name, values.size
        entry.data = values.ctypes.data_as(llama_cpp.ctypes.POINTER(llama_cpp.ctypes.c_float))
    found.values = entries
    return found


source, target, kind, *importance = sys.argv[1:]
params = llama_cpp.llama_model_quantize_default_params()
params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
params.nthread = 2
for file in importance:
    params.imatrix = importance_of(file)
failed = llama_cpp.llama_model_quantize(source.encode(), target.encode(), params)
sys.exit(failed and f"llama.cpp cannot write {target}")
