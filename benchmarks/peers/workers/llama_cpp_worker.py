"""A GGUF file in llama.cpp behind the protocol of this folder, through the low-level interface of llama-cpp-python."""

import ctypes
import time
from typing import Any

import llama_cpp
import numpy as np
from protocol import serve


class Engine:
    """One model; a context for single sequences and one for batches, made when first needed."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.use_mmap = spec.get("map", True)  # what is read into malloc's memory can be in huge pages
        self._model = llama_cpp.llama_model_load_from_file(spec["model"].encode(), params)
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {spec['model']}")
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._threads, self._tokens = spec["threads"], spec["context"]
        self._batch, self._batch_tokens = spec["batch"], spec["batch_context"]
        self._contexts: dict[int, Any] = {}

    def about(self) -> dict[str, Any]:
        return {"version": llama_cpp.__version__, "isa": llama_cpp.llama_print_system_info().decode()}

    def logits(self, tokens: list[int]) -> np.ndarray:
        context = self._context(1)
        self._decode(context, {0: tokens}, {0: 0})
        return self._last(context, 0).copy()

    def generate(self, prompts: list[list[int]], count: int) -> tuple[list[list[int]], float, float]:
        context = self._context(len(prompts))
        start = time.perf_counter()
        tokens = self._decode(context, dict(enumerate(prompts)), dict.fromkeys(range(len(prompts)), 0))
        between = time.perf_counter()
        results = [[token] for token in tokens.values()]
        for position in range(len(prompts[0]), len(prompts[0]) + count):
            inputs = {sequence: [token] for sequence, token in tokens.items()}
            tokens = self._decode(context, inputs, dict.fromkeys(inputs, position))
            for result, token in zip(results, tokens.values(), strict=True):
                result.append(token)
        return results, between - start, time.perf_counter() - between

    def answer(self, prompts: list[list[int]], most: int, end: int) -> list[list[int]]:
        """Continue prompts greedily up to an end, as many at a time as a batch has sequences."""
        context = self._context(self._batch)
        memory = llama_cpp.llama_get_memory(context)
        results: list[list[int]] = [[] for _ in prompts]
        waiting = sorted(range(len(prompts)), key=lambda prompt: -len(prompts[prompt]))
        running: dict[int, int] = {}  # the prompt of each sequence
        while waiting or running:
            inputs = {sequence: results[prompt][-1:] for sequence, prompt in running.items()}
            for sequence in set(range(self._batch)) - running.keys():
                if waiting:
                    running[sequence] = waiting.pop()
                    inputs[sequence] = prompts[running[sequence]]
            positions = {
                sequence: len(prompts[prompt]) + len(results[prompt]) - 1 if results[prompt] else 0
                for sequence, prompt in running.items()
            }
            for sequence, token in self._decode(context, inputs, positions).items():
                answer = results[running[sequence]]
                answer.append(token)
                if token == end or len(answer) == most:
                    del running[sequence]
                    llama_cpp.llama_memory_seq_rm(memory, sequence, -1, -1)
        return results

    def _context(self, sequences: int) -> Any:
        """An empty context for that many sequences."""
        size = 1 if sequences == 1 else self._batch
        if size not in self._contexts:
            params = llama_cpp.llama_context_default_params()
            params.n_ctx = self._tokens if size == 1 else size * self._batch_tokens
            params.n_batch = params.n_ctx
            params.n_ubatch, params.n_seq_max = 512, size
            params.n_threads = params.n_threads_batch = self._threads
            self._contexts[size] = llama_cpp.llama_init_from_model(self._model, params)
            if not self._contexts[size]:
                raise SystemExit("llama.cpp cannot make a context")
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._contexts[size]), True)
        return self._contexts[size]

    def _decode(self, context: Any, inputs: dict[int, list[int]], positions: dict[int, int]) -> dict[int, int]:
        """Run tokens of several sequences, each from its position on; the likeliest next token of each."""
        batch = llama_cpp.llama_batch_init(sum(map(len, inputs.values())), 0, 1)
        places = {}
        for sequence, tokens in inputs.items():
            for i, token in enumerate(tokens):
                place = batch.n_tokens
                batch.token[place], batch.pos[place] = token, positions[sequence] + i
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, sequence
                batch.logits[place] = i == len(tokens) - 1
                batch.n_tokens += 1
            places[sequence] = batch.n_tokens - 1
        failed = llama_cpp.llama_decode(context, batch)
        llama_cpp.llama_batch_free(batch)
        if failed:
            raise SystemExit("llama_decode failed")
        return {sequence: int(self._row(context, place).argmax()) for sequence, place in places.items()}

    def _last(self, context: Any, sequence: int) -> np.ndarray:
        return self._row(context, -1 - sequence)

    def _row(self, context: Any, place: int) -> np.ndarray:
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, place), shape=(self._vocabulary,))


if __name__ == "__main__":
    serve(Engine)
