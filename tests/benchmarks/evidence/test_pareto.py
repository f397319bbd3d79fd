import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.evidence import pareto
from cutwork.measure.compare import Measurements
from cutwork.tasks.task import Sample
from tests.benchmarks.evidence.made import FILES, model


def test_files_are_compared_with_the_teachers_own_answers() -> None:
    lines = pareto.table({"models": FILES, "threads": [1]}).splitlines()
    assert lines[2] == "| cutwork bf16 | 80.0% [77.4%, 82.4%] |  | 100 | 100 | 1000 |"
    sparse = next(line for line in lines if line.startswith("| cutwork int8, 75% zeros (4:16) | 77.0% ["))
    assert " | -3.0 [" in sparse and sparse.endswith(" | 100 | 330 | 1000 |")


def test_files_may_be_timed_and_asked_nothing() -> None:
    timed = {key: value for key, value in FILES[-1].items() if key not in ("right", "samples", "answers")}
    lines = pareto.table({"models": [*FILES[:-1], timed], "threads": [1]}).splitlines()
    assert lines[-1] == "| llama.cpp Q4_0 | not asked |  | 100 | 200 | 1000 |"


def test_ik_llama_cpp_runs_the_4_bit_files_and_may_be_the_fastest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    their = [{**model("llama.cpp", kind, 0.0, 0.7, 150), "file": f"{kind}.gguf"} for kind in ("Q8_0", "Q4_0")]
    [ours] = pareto.beside(their, tmp_path)
    assert (ours["engine"], ours["weights"], ours["right"]) == ("ik_llama.cpp", "Q4_0", 700)
    said = [{"n_prompt": 0, "n_gen": 128, "avg_ts": 256.0, "build_commit": "abc"}]
    commands: list[list[str]] = []

    def run(command: list[str]) -> tuple[str, str, float]:
        commands.append(command)
        return f"noise\n{json.dumps(said)}", "", 0.9

    monkeypatch.setattr(pareto.llama, "run", run)
    bench = pareto.Bench(ours, 2)
    assert bench.time(16, 128) == {"decode": 0.5} and bench.huge_share == 0.9 and Path(commands[0][2]).is_absolute()
    assert bench.version == "abc, -rtr 1 -thp 1" and commands[0][-8:-4] == ["-p", "0", "-n", "128"]
    ours["decode, 1 threads"] = [900.0]
    assert pareto.rival({"models": [*their, ours]}, "fastest") == "ik_llama.cpp Q4_0"
    named = [{**FILES[1], "pattern": "unstructured", "loss": "CE"}]
    named.append({**FILES[1], "weights": "int4, head too", "pattern": "8:16", "zeros": 0.5})
    assert [name for name, _ in pareto.names(named)] == [
        "cutwork int8, 75% zeros (anywhere, CE)",
        "cutwork int4, head too, 50% zeros (8:16)",
    ]


def test_a_control_is_told_from_the_teacher_where_both_are_there() -> None:
    teacher = model("cutwork", "int8", 0.0, 0.7, 150)
    control = {**teacher, "pattern": "dense"}
    assert [name for name, _ in pareto.names([teacher, control])] == ["cutwork int8", "cutwork int8, trained on"]
    assert [name for name, _ in pareto.names([control])] == ["cutwork int8"]


def test_of_our_own_4_bits_the_more_accurate_is_the_rival() -> None:
    teacher = model("cutwork", "int4", 0.0, 0.7, 150)
    for share, rival in ((0.8, "cutwork int4, trained on"), (0.6, "cutwork int4")):
        control = model("cutwork", "int4", 0.0, share, 150) | {"pattern": "dense"}
        assert pareto.rival({"models": [teacher, control]}, "own") == rival


def test_every_round_times_one_file_of_a_kind_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[str] = []

    class Alone:
        pid = 0

        def __init__(self, file: str) -> None:
            running.append(file)
            self.seconds = 0.5 if file == "slow" else 0.25

        def ask(self, what: dict[str, Any]) -> dict[str, Any]:
            assert len(running) == 1
            return {"prefill": 2 * self.seconds, "decode": self.seconds}

        def kill(self) -> None:
            running.clear()

    monkeypatch.setattr(pareto, "Worker", Alone)
    monkeypatch.setattr(pareto, "start", lambda model, threads: Alone(model["file"]))
    seeds = [{**FILES[1], "seed": seed, "file": file} for seed, file in enumerate(("fast", "slow"))]
    other = {**FILES[0], "file": "fast"}
    pareto.timed([*seeds, other], 3, 5)
    assert [each["decode, 3 threads"] for each in (*seeds, other)] == [[512.0] * 3, [256.0] * 2, [512.0] * 5]
    assert seeds[1]["prefill, 3 threads"] == [512.0] * 2 and not running
    assert pareto.speed(seeds, "decode, 3 threads") == 512.0


def test_what_a_peer_has_answered_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int]] = []

    class Peer:
        def ask(self, what: dict[str, Any]) -> dict[str, Any]:
            if len(asked) == 2 and not (tmp_path / "again").exists():
                raise KeyboardInterrupt
            asked.append([prompt for [prompt] in what["answer"]])
            return {"tokens": [[prompt, 0] if prompt else [prompt + 9] for [prompt] in what["answer"]]}

        def kill(self) -> None:
            pass

    class Numbers:
        eos_token_id = 0

        def __call__(self, prompt: str, **_: Any) -> dict[str, Any]:
            return {"input_ids": [int(prompt)]}

        def decode(self, tokens: list[int], **_: Any) -> str:
            return "".join(map(str, tokens))

    monkeypatch.setattr(pareto, "start", lambda *_: Peer())
    monkeypatch.setattr(pareto, "render_prompt", lambda _, sample: sample.prompt)
    monkeypatch.setattr(pareto, "_TOGETHER", 2)
    task = SimpleNamespace(test=[Sample(str(i), str(i)) for i in range(5)])
    kept, key = Measurements(tmp_path), ["file"]
    arguments: Any = ({}, task, Numbers(), 4, kept, key)
    with pytest.raises(KeyboardInterrupt):
        pareto.ask(*arguments)
    (tmp_path / "again").touch()
    found = pareto.ask(*arguments)
    assert asked == [[0, 1], [2, 3], [4]]
    assert found["replies"] == ["9", "1", "2", "3", "4"] and found["right"] == 4
