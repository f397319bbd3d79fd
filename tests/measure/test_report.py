"""The report says what the results say, in every form."""

import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cutwork.errors import CutworkError
from cutwork.measure.report.model_card import model_card
from cutwork.measure.report.results import load_results, told_apart
from cutwork.measure.report.tables import console_table, headings, markdown, table_rows
from cutwork.measure.report.write import write_report
from cutwork.pack.manifest import Manifest, Source
from tests.measure.fake import results


def test_markdown_has_a_row_for_every_variant() -> None:
    lines = markdown([results()]).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 7
    assert all(line.count("|") == len(headings([results()])) + 1 for line in table)
    assert sum("| – |" in line for line in table) == 3
    assert "| sparse-int8 | 60% | 61.0% | 2.39 | 110 | 110 | 1440 | 180.0 | 4.50× | 1.50× |" in table
    assert "200 held-out questions; Test CPU, avx512, 2 threads." in lines[-1]


def test_translations_have_columns_of_their_own_and_no_perplexity() -> None:
    run = results()
    for row in run["variants"]:
        row |= {"bleu": 61.25, "chrf": 80.0, "perplexity": None}
    table = markdown([run]).splitlines()
    assert "| accuracy | BLEU | chrF | perplexity |" in table[0]
    assert all("| 61.2 | 80.0 | – |" in line for line in table[2:9])


def test_tasks_of_lm_eval_have_columns() -> None:
    run = results()
    for row in run["variants"][1:]:
        arc = {"sample_len": 9.0, "acc": 0.25, "acc_stderr": 0.1, "acc_norm": 0.305}
        gsm = {"sample_len": 9.0, "exact_match_stderr": 0.1, "exact_match": 0.5}
        row["lm_eval"] = {"arc": arc, "gsm": gsm, "a group that is not averaged": {}}
    table = markdown([run]).splitlines()
    assert "| accuracy | arc acc_norm | gsm exact_match | perplexity |" in table[0]
    assert "| – | – |" in table[2]
    assert all("| 0.305 | 0.5 |" in line for line in table[3:9])


def test_a_missing_baseline_is_a_dash() -> None:
    run = results()
    for row in run["variants"]:
        del row["decode_speedup_over_dense_int8"]
    assert {row[-1] for row in table_rows([run])} == {"–"}


def test_without_float32_speed_is_against_bfloat16() -> None:
    run = results()
    for row in run["variants"]:
        row["decode_speedup_over_dense_bf16"] = row["decode_tokens_per_second"] / 75
    assert headings([run])[-2:] == ["decode vs dense fp32", "decode vs dense int8"]
    for row in run["variants"]:
        del row["decode_speedup_over_dense_f32"]
    assert headings([run])[-2:] == ["decode vs dense bf16", "decode vs dense int8"]
    assert [row[-2] for row in table_rows([run])[:3]] == ["0.53×", "1.00×", "0.80×"]


def test_several_runs_are_told_apart() -> None:
    rows = table_rows([results("a"), results("b", 0.7)])
    assert [rows[0][0], rows[7][0]] == ["a · dense-f32", "b · dense-f32"]


def test_without_matplotlib_there_is_no_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutwork.measure.report.write.find_spec", lambda _: None)
    assert write_report([results()], tmp_path) == [tmp_path / "results.md"]


def test_the_console_table_fits_eighty_columns() -> None:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(console_table([results()]))
    text = console.export_text()
    assert all(text_part in text for text_part in ("sparse-int8", "180.0", "4.50×", "Test CPU"))
    assert "…" not in text


@pytest.mark.parametrize("runs", [1, 3])
def test_the_files_are_written_whole(tmp_path: Path, runs: int) -> None:
    many = [results(f"run {i}", 0.5 + i / 10, 0.65 - i / 20) for i in range(runs)]
    write_report(many, tmp_path / "report")
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["results.md", "results.png"]
    picture = (tmp_path / "report" / "results.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000


def test_no_results_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CutworkError, match=r"has no results\.json; finish its run first"):
        load_results(tmp_path)
    (tmp_path / "results.json").write_text('{"variants": [{}]}')
    with pytest.raises(CutworkError, match="not what cutwork run writes"):
        load_results(tmp_path)


def test_what_another_program_left_is_one_sentence(tmp_path: Path) -> None:
    whole = results()
    spoilt = [{**whole, "variants": []}, {**whole, "variants": 3}, {**whole, "machine": "a big one"}]
    spoilt += [{key: value for key, value in whole.items() if key != lacks} for lacks in whole]
    for each in spoilt:
        (tmp_path / "results.json").write_text(json.dumps(each))
        with pytest.raises(CutworkError, match="is not what cutwork run writes"):
            load_results(tmp_path)
    (tmp_path / "results.json").write_text(json.dumps(whole))
    assert load_results(tmp_path) == whole


def test_runs_of_one_name_are_called_by_their_directories() -> None:
    runs = told_apart([results("a"), results("b"), results("a")], [Path("x"), Path("y"), Path("out/z")])
    assert [run["recipe"] for run in runs] == ["x", "b", "out/z"]
    assert [row[0] for row in table_rows(runs)][::7] == ["x · dense-f32", "b · dense-f32", "out/z · dense-f32"]


def test_a_card_has_all_that_was_measured_and_says_what_was_learned() -> None:
    run = results() | {"task": "./test.jsonl", "date": "2026-01-01"}
    for row in run["variants"]:
        row |= {"bleu": 61.25, "chrf": 80.0, "lm_eval": {"arc": {"acc_norm": 0.305}}}
    compare = {"prompt_tokens": 8, "decode_tokens": 2, "repeats": 1}
    task = {"name": "jsonl", "options": {"train": "./train.jsonl", "test": "./test.jsonl"}}
    run["settings"] = {"model": "m", "task": task, "compare": compare}
    manifest = Manifest(version=1, config={"model_type": "llama"}, source=Source(kind="checkpoint"), weights={})
    text = model_card("me/it", None, run, "sparse-int8", manifest, "0", template=False, examples=False)
    assert "`m`, fine-tuned on ./train.jsonl, with 60%" in text
    assert "200 held-out questions of ./test.jsonl, the same" in text
    assert "| accuracy (95% interval) | BLEU | chrF | arc acc_norm | perplexity |" in text
    assert "%) | 61.2 | 80.0 | 0.305 | 2.39 | 110 |" in text
    assert "and before any fine-tuning" in " ".join(text.split()) and "the zeros are in them" in text
    run["settings"] |= {"prune": {"levels": [0.5, 0.6]}, "quantize": {"sparsity": 0.6}}
    text = model_card("me/it", None, run, "sparse-int8", manifest, "0", template=False, examples=False)
    assert "and before its last fine-tuning" in " ".join(text.split()) and "the zeros are in them" not in text


def test_the_command_renders_again(tmp_path: Path) -> None:
    import typer

    from cutwork.cli.report import report

    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(results(name)))
    app = typer.Typer()
    app.command()(report)
    outcome = CliRunner().invoke(app, [str(tmp_path / "a"), str(tmp_path / "b"), "-o", str(tmp_path / "both")])
    assert outcome.exit_code == 0
    assert (tmp_path / "both" / "results.png").is_file()


def test_int4_is_called_so_and_every_machine_is_named() -> None:
    run, other = results(), results()
    run["settings"] = {"quantize": {"scheme": "w4a16"}}
    other["machine"] = {**other["machine"], "cpu": "Other CPU"}
    assert (
        headings([run])[-1] == "decode vs dense int4" and headings([run, other])[-1] == "decode vs dense int4 or int8"
    )
    assert any(row[0] == "sparse-int4" for row in table_rows([run]))
    assert not any("int8" in line for line in markdown([run]).splitlines())
    assert "Test CPU, avx512, 2 threads or Other CPU, avx512, 2 threads." in markdown([run, other])
