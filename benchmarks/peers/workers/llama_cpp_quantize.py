"""What llama-quantize does: SOURCE.gguf TARGET.gguf TYPE, one of llama.cpp's names such as Q4_K_M."""

import sys

import llama_cpp

source, target, kind = sys.argv[1:]
params = llama_cpp.llama_model_quantize_default_params()
params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
params.nthread = 2
failed = llama_cpp.llama_model_quantize(source.encode(), target.encode(), params)
sys.exit(failed and f"llama.cpp cannot write {target}")
