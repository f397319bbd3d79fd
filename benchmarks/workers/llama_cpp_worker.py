"""A GGUF file in llama.cpp behind the protocol of this folder: llama_cpp_worker.py FILE CONTEXT.

Needs llama-cpp-python and NumPy only.
"""

import ctypes
import sys
from typing import Any

import llama_cpp
import numpy as np
from protocol import serve


class Engine:
    """One model and context; the number of threads may change from call to call."""

    def __init__(self, path: str, context: int) -> None:
        self._quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = context, 512, 512, 1
        self._context = llama_cpp.llama_init_from_model(self._model, params) if self._model else None
        if not self._context:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))

    def feed(self, tokens: list[int], start: int, threads: int) -> np.ndarray:
        """Run tokens after those already run; the last one's logits."""
        llama_cpp.llama_set_n_threads(self._context, threads, threads)
        ids = (llama_cpp.llama_token * len(tokens))(*tokens)
        if llama_cpp.llama_decode(self._context, llama_cpp.llama_batch_get_one(ids, len(tokens))):
            raise SystemExit("llama_decode failed")
        logits = llama_cpp.llama_get_logits_ith(self._context, -1)
        return np.ctypeslib.as_array(logits, shape=(self._vocabulary,))

    def forget(self) -> None:
        """Start anew."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)

    @staticmethod
    def about() -> dict[str, Any]:
        """What runs here."""
        return {"version": llama_cpp.__version__, "isa": llama_cpp.llama_print_system_info().decode()}


if __name__ == "__main__":
    serve(Engine(sys.argv[1], int(sys.argv[2])))
