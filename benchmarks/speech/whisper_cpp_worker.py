"""whisper.cpp, through pywhispercpp, in a process of its own; faster_whisper_worker.py's protocol, "q8_0" or "f16"."""

import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from faster_whisper_worker import serve
from ggml_file import write_ggml


class WhisperCpp:
    def __init__(self, spec: dict[str, Any]) -> None:
        import importlib.metadata

        import numpy as np
        from pywhispercpp.model import Model

        self._audio = np.load(spec["audio"])
        self._models = {}
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "model.bin"
            write_ggml(Path(spec["model"]), file, spec["type"] == "q8_0")
            for beams, strategy in ((1, 0), (5, 1)):
                self._models[beams] = Model(
                    str(file),
                    params_sampling_strategy=strategy,
                    n_threads=spec["threads"],
                    language="en",
                    print_progress=False,
                    print_realtime=False,
                    temperature_inc=0.0,
                    entropy_thold=-1e9,
                    logprob_thold=-1e9,
                    no_speech_thold=1.0,
                    no_context=True,
                    **(
                        {"beam_search": {"beam_size": beams, "patience": -1.0}}
                        if strategy
                        else {"greedy": {"best_of": 1}}
                    ),
                )
        self.version = f"pywhispercpp {importlib.metadata.version('pywhispercpp')}"

    def transcribe(self, beams: int) -> str:
        return " ".join(segment.text.strip() for segment in self._models[beams].transcribe(self._audio))


if __name__ == "__main__":
    serve(WhisperCpp)
