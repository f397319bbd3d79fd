"""benchmarks.isa: the order of what is measured, what is read of peers, and what the tables say of results."""

import json
import os
import subprocess
import sys
import time
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import cutwork
from benchmarks.common.pages import huge_share
from benchmarks.common.shapes import SHAPES
from benchmarks.isa import builds, cutwork_worker, glance, llama, models, report, rounds, targets
from benchmarks.isa.cells import AVX2, CUTWORK, IK, LLAMA, NATIVE, OURS, Cell, CellError, groups
from benchmarks.isa.llama import Build, parse_batches, parse_singles
from benchmarks.isa.store import Store
from benchmarks.isa.work import WHAT
from cutwork import _native

DENSE, SPARSE = Cell(CUTWORK, "avx2", "int8 dense", 1), Cell(CUTWORK, "avx2", "int8 4:16", 1)
PEER = Cell(IK, NATIVE, "Q4_0", 1)
TABLE = """
|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |
|-------|--------|------|--------|----------|----------|----------|----------|----------|----------|
|    16 |     12 |    4 |    112 |    0.602 |   106.31 |    0.521 |    92.13 |    1.123 |    99.73 |
|    16 |     12 |   16 |    448 |    2.409 |   106.27 |    1.700 |   112.94 |    4.109 |   109.03 |
"""


def store(tmp_path: Path, **speeds: list[float]) -> Store:
    """Of decode speeds, the same for everything else; a cell by its engine or weights."""
    found = Store.open(tmp_path / "isa.json", 22, fresh=False)
    cells = {"dense": DENSE, "sparse": SPARSE, "peer": PEER}
    for name, values in speeds.items():
        ours = {"encodings": ["dense"], "megabytes": 1.0, "bytes_per_token": 10**9} if name != "peer" else {}
        for value in values:
            run = {"bandwidth": 40.0, "huge_pages": 0.9, "others": 0.01, "seconds": 7.0}
            found.add(cells[name], ours, dict.fromkeys(WHAT, value) | run)
    return found


def test_what_the_targets_need_comes_first() -> None:
    builds = {(IK, NATIVE), (LLAMA, AVX2)}
    first, rest = groups(["avx512", "avx512f", "avx2"], OURS, builds, [1, 2])
    assert not set(first) & set(rest)
    assert len(set(first) | set(rest)) == 2 * (3 * len(OURS) + 2 * 3)
    assert Cell(IK, NATIVE, "Q4_0", 2) in first and Cell(LLAMA, AVX2, "Q8_0", 2) in rest
    assert {cell.isa for cell in first if cell.engine == CUTWORK} == {"avx512", "avx2"}
    wanted = targets.targets("avx512")
    needed = {(t.isa, t.weights) for t in wanted} | {t.over[1:] for t in wanted if t.over}
    found = {(cell.isa, cell.weights) for cell in first}
    assert needed - {(NATIVE, "Q4_0")} <= found


def test_only_what_is_missing_is_measured(tmp_path: Path) -> None:
    results = store(tmp_path, dense=[1.0, 1.0])
    bench = rounds.Bench(results, tmp_path, {}, report_console())
    wanted = [[DENSE, SPARSE], [DENSE, SPARSE], [DENSE, SPARSE]]
    assert sorted(map(str, bench.missing(wanted))) == sorted(map(str, [SPARSE, SPARSE, SPARSE, DENSE]))
    again = Store.open(results.path, 22, fresh=False)
    assert again.runs(DENSE) == 2 and again.cells == results.cells
    with pytest.raises(SystemExit, match="22 layers"):
        Store.open(results.path, 4, fresh=False)


def test_it_stops_before_the_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = store(tmp_path, dense=[1.0])  # which took 7 seconds
    monkeypatch.setattr(rounds.Bench, "measure", lambda *_: pytest.fail("there was no time for it"))
    bench = rounds.Bench(results, tmp_path, {}, report_console(), time.monotonic() + 5)
    assert not bench.run([[DENSE], [DENSE]])
    assert rounds.Bench(results, tmp_path, {}, report_console()).run([[DENSE]])


def test_what_fails_is_left_out(tmp_path: Path) -> None:
    results = store(tmp_path)
    bench = rounds.Bench(results, tmp_path, {}, report_console())
    gone = Cell(CUTWORK, "scalar", "int8 dense", 1)  # no model of it is there
    assert not bench.run([[gone], [gone]])
    assert results.runs(gone) == 0


def test_peers_tables_are_read() -> None:
    assert parse_batches(TABLE) == {"batch 4": 92.13, "batch 16": 112.94}
    rows = json.loads('[{"n_prompt": 512, "n_gen": 0, "avg_ts": 120.5}, {"n_prompt": 0, "n_gen": 24, "avg_ts": 40.25}]')
    assert parse_singles(rows) == {"prefill": 120.5, "decode": 40.25}


def test_a_folder_without_the_programs_is_refused(tmp_path: Path) -> None:
    assert "has no llama-bench" in str(Build(IK, tmp_path).missing())
    for name in ("llama-bench", "llama-batched-bench"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    assert Build(IK, tmp_path).missing() is None


def test_a_peer_is_timed_by_its_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"n_prompt": n, "avg_ts": 50.0 + n, "build_commit": "abc"} for n in (0, 512)]
    scripts = {"llama-bench": f"echo '{json.dumps(rows)}'", "llama-batched-bench": f"echo '{TABLE}' >&2"}
    for name, body in scripts.items():
        arguments = f'echo "$@" >> {tmp_path}/arguments; echo "$GLIBC_TUNABLES" >> {tmp_path}/arguments'
        (tmp_path / name).write_text(f"#!/bin/sh\n{arguments}\n{body}\n")
        (tmp_path / name).chmod(0o755)
    answer = Build(IK, tmp_path).measure(tmp_path / "model.gguf", 2)
    assert answer["speeds"] == {"decode": 50.0, "prefill": 562.0, "batch 4": 92.13, "batch 16": 112.94}
    assert answer["version"].startswith("abc, llama-bench -rtr 1 -thp 1")
    said = (tmp_path / "arguments").read_text()
    assert said.count("glibc.malloc.hugetlb=1") == 2 and said.count("-t 2") == 2
    shares = {"llama-bench": 0.99, "llama-batched-bench": 0.1}
    run = llama.run
    monkeypatch.setattr(llama, "run", lambda command: (*run(command)[:2], shares[Path(command[0]).name]))
    assert Build(IK, tmp_path).measure(tmp_path / "model.gguf", 2)["huge_pages"] == 0.1
    (tmp_path / "llama-bench").write_text("#!/bin/sh\necho no such model >&2\nexit 3\n")
    with pytest.raises(CellError, match="llama-bench failed: no such model"):
        Build(IK, tmp_path).measure(tmp_path / "model.gguf", 2)


def test_targets_compare_runs_of_the_same_round(tmp_path: Path) -> None:
    results = store(tmp_path, dense=[10.0, 20.0, 10.0], sparse=[21.0, 42.0, 19.0])
    found = {each.work: each for each in targets.verdicts(results.save())}
    decode = found["avx2 int8 4:16: decode"]
    assert decode.ratios == [2.1, 2.1, 1.9] and decode.ratio == 2.1 and decode.met
    worst = found["avx2, no zeros that cost time; the worst: int8 4:16, decode"]
    assert worst.met and worst.least == 0.95
    text = report.targets_table(results.save())
    assert "| avx2 int8 4:16: decode | avx2 int8 dense | 1 | 2 | 2.10 (1.90–2.10) | met |" in text
    assert "in none of 6 runs" in text and "of peers' 100%" in text


def test_runs_are_compared_where_memory_was_as_fast_and_nobody_else_was_busy(tmp_path: Path) -> None:
    results = store(tmp_path, dense=[30.0, 60.0], sparse=[60.0, 30.0])
    for cell in (DENSE, SPARSE):
        for run in results.cells[cell]["runs"]:
            run["bandwidth"] = run["decode"]  # as fast as memory, whose speed the rounds differ in
    cells = targets.cells_of(results.save())
    assert targets.ratios(cells, SPARSE, DENSE, "decode") == [1.0, 1.0]
    cells[SPARSE]["runs"][0]["bandwidth"] = 120.0  # which none of dense had
    assert targets.ratios(cells, SPARSE, DENSE, "decode") == [1.0]
    cells[SPARSE]["runs"].pop()
    assert targets.ratios(cells, SPARSE, DENSE, "decode") == [1.0]  # the nearest that there is
    (tmp_path / "again").mkdir()
    results = store(tmp_path / "again", dense=[10.0, 10.0], sparse=[30.0, 20.0])
    results.cells[SPARSE]["runs"][0]["others"] = 0.5
    [decode] = [each for each in targets.verdicts(results.save()) if each.work == "avx2 int8 4:16: decode"]
    assert decode.ratios == [2.0]


def test_missed_targets_and_disturbed_runs_are_told(tmp_path: Path) -> None:
    results = store(tmp_path, dense=[10.0], sparse=[9.0], peer=[5.0])
    results.cells[PEER]["runs"][0]["others"] = 0.5
    text = report.targets_table(results.save())
    assert text.count("**missed**") == 3  # decode, prefill and the worst cell
    assert "in 1 of 3 runs" in text and "of peers' 90%" in text
    table = report.table(results.save())
    assert "| 1 | avx2 int8 4:16 | dense | 9 (0.90×) | 23% |" in table
    assert "ik_llama.cpp" not in table  # all that was measured of it was disturbed
    results.cells[PEER]["runs"][0]["others"] = 0.0
    assert "| 1 | ik_llama.cpp (native) Q4_0 |" in report.table(results.save())


def test_a_peer_in_small_pages_is_shown_and_not_compared(tmp_path: Path) -> None:
    results = store(tmp_path, dense=[10.0], sparse=[20.0], peer=[5.0])
    results.cells[PEER]["runs"][0]["huge_pages"] = 0.0
    assert not any("ik_llama.cpp" in each.against for each in targets.verdicts(results.save()))
    assert "| 1 | ik_llama.cpp (native) Q4_0 |" in report.table(results.save())


def test_zeros_that_cost_time_are_found_at_the_same_bandwidth(tmp_path: Path) -> None:
    results = store(tmp_path, dense=[10.0, 20.0, 10.0], sparse=[19.0])
    for row in results.cells.values():
        for run, bandwidth in zip(row["runs"], (20.0, 40.0, 20.0), strict=False):
            run["bandwidth"] = bandwidth if len(row["runs"]) > 1 else 39.0
    found = {each.work: each for each in targets.verdicts(results.save())}
    worst = found["avx2, no zeros that cost time; the worst: int8 4:16, decode"]
    assert worst.ratios == [0.95]


def test_the_glance_holds_zeros_against_the_fastest_peer_of_the_same_run() -> None:
    def result(decode: dict[tuple[str, str], float]) -> dict[str, object]:
        cells = []
        for (engine, weights), speed in decode.items():
            for isa in ("avx512", "amx", AVX2) if engine == CUTWORK else (NATIVE, AVX2):
                run = dict.fromkeys(WHAT, speed) | {"bandwidth": 40.0, "huge_pages": 0.9, "others": 0.01}
                cells.append({"cell": asdict(Cell(engine, isa, weights, 1)), "runs": [run, run]})
        return {"cells": cells}

    ours = {(CUTWORK, f"{dtype} {zeros}"): 20.0 for dtype in ("int8", "int4") for zeros in ("dense", "75%", "4:16")}
    peers = {(LLAMA, "Q4_0"): 8.0, (IK, "Q4_0"): 10.0, (LLAMA, "Q8_0"): 12.0}
    now, earlier = result(ours | peers), result(dict.fromkeys(ours, 15.0) | peers)
    lines = glance.table(*(earlier if name in ("isa_avx512", "isa") else now for name in glance.FILES)).splitlines()
    said = "1.00 (1.00–1.00)"
    assert f"| Zen 4 | int4, 4:16 | {said} | {said} | 2.00 (2.00–2.00) | ik_llama.cpp Q4_0 |" in lines
    assert f"| Zen 5 | int4, 4:16 | {said} | {said} | 1.50 (1.50–1.50)† | ik_llama.cpp Q4_0 |" in lines


def test_a_model_is_measured_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "shape", lambda layers: replace(SHAPES["tiny"], layers=layers, vocabulary=512))
    cell = Cell(CUTWORK, "scalar", "int8 4:16", 1)
    models.write_model(tmp_path, 1, cell, None)
    path = models.model_path(tmp_path, 1, cell)
    written = path.stat().st_mtime
    models.write_model(tmp_path, 1, cell, None)
    assert path.stat().st_mtime == written
    command = [sys.executable, "-c", FEW_TOKENS, str(path), "1"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    answer = json.loads(done.stdout)
    assert set(answer["speeds"]) == set(WHAT) and min(answer["speeds"].values()) > 0
    assert answer["encodings"] == ["slots"] and answer["bytes_per_token"] > 1e5


def test_a_build_is_measured_out_of_its_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "shape", lambda layers: replace(SHAPES["tiny"], layers=layers, vocabulary=512))
    cell = Cell(CUTWORK, "scalar", "int8 4:16", 1)
    models.write_model(tmp_path, 1, cell, None)
    wheel = tmp_path / "cutwork.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in Path(cutwork.__file__).parent.rglob("*.py"):
            archive.write(file, Path("cutwork") / file.relative_to(Path(cutwork.__file__).parent))
        archive.write(str(_native.__file__), Path("cutwork") / Path(str(_native.__file__)).name)
    folder = builds.unpacked(wheel, tmp_path / "build")
    found = builds.speeds(folder, models.model_path(tmp_path, 1, cell), cell)
    assert set(found) == set(WHAT) and min(found.values()) > 0
    (folder / "cutwork" / "engine" / "model.py").write_text("raise SystemExit('another build')")
    with pytest.raises(CellError, match="failed"):  # it runs what it is given, not what is installed
        builds.speeds(folder, models.model_path(tmp_path, 1, cell), cell)


def test_builds_are_compared_within_a_round() -> None:
    measured = [({"a": before, "b": after}) for before, after in ((10.0, 12.0), (20.0, 22.0), (10.0, 11.5))]
    each = [{name: dict.fromkeys(WHAT, value) for name, value in pair.items()} for pair in measured]
    result = {"builds": ["a", "b"], "layers": 3, "rows": [{"cell": asdict(SPARSE), "rounds": each}]}
    assert "| 1 | avx2 int8 4:16 | 1.15 (1.10–1.20) |" in builds.table(result)
    assert builds.table(result).endswith("b over a, 3 layers, random weights, 3 rounds.")


FEW_TOKENS = """
from benchmarks.isa import cutwork_worker
cutwork_worker.PROMPT, cutwork_worker.STEPS, cutwork_worker.BATCHES = 8, 1, (4, 16)
cutwork_worker.main()
"""


def test_some_measurements_are_enough() -> None:
    assert cutwork_worker.some(lambda i: 0.6 + i, 9) == pytest.approx(1.1)  # two take more than a second
    assert cutwork_worker.some(float, 1) == 0.0


def test_others_are_stopped_and_go_on() -> None:
    other = subprocess.Popen(["sleep", "60"])
    try:
        with rounds.stopped([other.pid]):
            assert state(other.pid) == "T"
        assert state(other.pid) == "S"
    finally:
        other.kill()
        other.wait()


def test_what_others_take_is_noticed() -> None:
    busy, own = rounds.busy_seconds(), rounds.own_seconds()
    sum(range(10**6))
    assert rounds.busy_seconds() >= busy
    assert rounds.own_seconds() > own
    assert 0 <= huge_share(os.getpid()) <= 1 and huge_share(0) == 0


def state(process: int) -> str:
    time.sleep(0.05)
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def report_console() -> "rounds.Console":
    return rounds.Console(quiet=True)
