"""faster-whisper in a process of its own, behind one JSON object per line each way.

Started with {"model": checkpoint, "audio": .npy file, "window": the same of one window's spectrogram, "type": "int8" or
"float32", "threads": n, "batch": windows of the batched pipeline, or 0}. {"do": "transcribe", "beams": b} gets {"text":
…, "seconds": s}; {"do": "encode"} and {"do": "decode", "beams": b, "tokens": n} get {"seconds": s}. The checkpoint is
converted first; that needs transformers.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class FasterWhisper:
    def __init__(self, spec: dict[str, Any]) -> None:
        import ctranslate2
        import faster_whisper
        import numpy as np
        from ctranslate2.converters import TransformersConverter

        directory = Path(tempfile.mkdtemp()) / "model"
        try:
            copied = ["tokenizer.json", "preprocessor_config.json"]
            TransformersConverter(spec["model"], copy_files=copied).convert(str(directory), quantization=spec["type"])
            self._model = faster_whisper.WhisperModel(
                str(directory), device="cpu", compute_type=spec["type"], cpu_threads=spec["threads"], num_workers=1
            )
        finally:
            shutil.rmtree(directory.parent, ignore_errors=True)
        self._whole: Any = self._model
        self._how: dict[str, Any] = {"condition_on_previous_text": False}
        if spec["batch"]:
            self._whole, self._how = faster_whisper.BatchedInferencePipeline(self._model), {"batch_size": spec["batch"]}
        self._audio = np.load(spec["audio"])
        self._window = ctranslate2.StorageView.from_array(np.ascontiguousarray(np.load(spec["window"])[None]))
        self._ids, self._encoded = spec["prompt"], None
        self.version = f"faster-whisper {faster_whisper.__version__}, ctranslate2 {ctranslate2.__version__}"

    def transcribe(self, beams: int) -> str:
        segments, _ = self._whole.transcribe(
            self._audio,
            language="en",
            beam_size=beams,
            temperature=0.0,
            compression_ratio_threshold=None,
            log_prob_threshold=None,
            no_speech_threshold=None,
            **self._how,
        )
        return "".join(segment.text for segment in segments).strip()

    def encode(self) -> None:
        self._encoded = self._model.model.encode(self._window)

    def decode(self, beams: int, tokens: int) -> None:
        if self._encoded is None:
            self.encode()
        # CTranslate2 decodes half of max_length at most (models/whisper.cc).
        found = self._model.model.generate(
            self._encoded, [self._ids], beam_size=beams, max_length=2 * tokens, suppress_tokens=[self.end]
        )
        if (made := len(found[0].sequences_ids[0])) != tokens:
            raise SystemExit(f"it decoded {made} tokens, not {tokens}")

    @property
    def end(self) -> int:
        return int(self._model.hf_tokenizer.token_to_id("<|endoftext|>"))


def serve(kind: Callable[[dict[str, Any]], Any]) -> None:
    """Make the engine and answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to standard error

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    engine = kind(json.loads(sys.argv[1]))
    answer({"version": engine.version})
    for line in sys.stdin:
        request = json.loads(line)
        what = request.pop("do")
        start = time.perf_counter()
        result = getattr(engine, what)(**request)
        answer({"text": result, "seconds": time.perf_counter() - start})


if __name__ == "__main__":
    serve(FasterWhisper)
