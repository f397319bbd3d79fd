"""What llama-quantize does: SOURCE.gguf TARGET.gguf TYPE, the type one of llama.cpp's names such as Q4_K_M."""

import argparse
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


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("source")
parser.add_argument("target")
parser.add_argument("kind", metavar="TYPE")
parser.add_argument("--head", action="store_true", help="embeddings and output head in that type, too")
parser.add_argument("--importance", metavar="FILE.npz", help="by names of tensors, each float32 [inputs]")
options = parser.parse_args()
params = llama_cpp.llama_model_quantize_default_params()
params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{options.kind}")
params.nthread = 2
if options.head:
    params.output_tensor_type = params.token_embedding_type = getattr(llama_cpp, f"GGML_TYPE_{options.kind}")
if options.importance:
    params.imatrix = importance_of(options.importance)
failed = llama_cpp.llama_model_quantize(options.source.encode(), options.target.encode(), params)
sys.exit(failed and f"llama.cpp cannot write {options.target}")
