"""Another engine in a process of its own, behind one JSON object per line each way: translate these token ids.

Started with {"engine": "ctranslate2" or "transformers", "model": directory, "threads": n} and how it is set up; then
each line {"sources": lists of ids, "beams": n, "length": tokens at most, "fixed": if exactly so many} gets {"tokens":
lists, "seconds": s}.
"""

import json
import os
import sys
import tempfile
import time
from typing import Any

BATCH = 16  # sentences that are translated together


class CTranslate2:
    """int8 weights, converted from the checkpoint; `translators`: one to each thread, instead of one with all."""

    def __init__(self, model: str, threads: int, translators: bool = False) -> None:
        import ctranslate2
        from ctranslate2.converters import TransformersConverter
        from transformers import AutoTokenizer

        with tempfile.TemporaryDirectory() as directory:
            converted = TransformersConverter(model).convert(directory, quantization="int8", force=True)
            inter, intra = (threads, 1) if translators else (1, threads)
            self._translator = ctranslate2.Translator(
                converted, device="cpu", compute_type="int8", inter_threads=inter, intra_threads=intra
            )
        self._tokenizer = AutoTokenizer.from_pretrained(model)
        self.version = f"ctranslate2 {ctranslate2.__version__}"

    def translate(self, sources: list[list[int]], beams: int, length: int, fixed: bool) -> list[list[int]]:
        words = [self._tokenizer.convert_ids_to_tokens(ids) for ids in sources]
        results = self._translator.translate_batch(
            words,
            max_batch_size=BATCH,
            beam_size=beams,
            max_decoding_length=length,
            min_decoding_length=length if fixed else 1,
            return_scores=False,
        )
        return [self._tokenizer.convert_tokens_to_ids(result.hypotheses[0]) for result in results]


class Transformers:
    """float32, torch."""

    def __init__(self, model: str, threads: int) -> None:
        import torch
        import transformers

        torch.set_num_threads(threads)
        self._model = transformers.AutoModelForSeq2SeqLM.from_pretrained(
            model, dtype=torch.float32, use_safetensors=True
        ).eval()
        self.version = f"transformers {transformers.__version__}, torch {torch.__version__}"

    def translate(self, sources: list[list[int]], beams: int, length: int, fixed: bool) -> list[list[int]]:
        import torch

        order = sorted(range(len(sources)), key=lambda i: -len(sources[i]))
        results: dict[int, list[int]] = {}
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            longest = len(sources[part[0]])
            ids = torch.tensor([sources[i] + [0] * (longest - len(sources[i])) for i in part])
            mask = torch.tensor([[1] * len(sources[i]) + [0] * (longest - len(sources[i])) for i in part])
            with torch.inference_mode():
                found = self._model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    num_beams=beams,
                    max_new_tokens=length,
                    min_new_tokens=length if fixed else None,
                    do_sample=False,
                )
            results |= dict(zip(part, found[:, 1:].tolist(), strict=True))
        return [results[i] for i in range(len(sources))]


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to standard error

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    spec = json.loads(sys.argv[1])
    kinds = {"ctranslate2": CTranslate2, "transformers": Transformers}
    engine = kinds[spec.pop("engine")](**spec)
    answer({"version": engine.version})
    for line in sys.stdin:
        request = json.loads(line)
        start = time.perf_counter()
        tokens = engine.translate(request["sources"], request["beams"], request["length"], request["fixed"])
        answer({"tokens": tokens, "seconds": time.perf_counter() - start})


if __name__ == "__main__":
    main()
