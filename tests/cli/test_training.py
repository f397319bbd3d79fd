"""The commands tune, prune and quantize, one after the other."""

import json
import re
import wave
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import typer
import yaml
from transformers import AutoTokenizer
from typer.testing import CliRunner

import cutwork.cli
from cutwork.cli.eval import _settings
from cutwork.cli.prune import prune
from cutwork.cli.quantize import quantize
from cutwork.cli.training import training_task
from cutwork.cli.tune import tune
from cutwork.errors import CutworkError
from cutwork.recipe import TaskSettings
from cutwork.tasks.load import LEFT_TO_EVAL, load_task
from cutwork.tasks.task import Sample
from tests.tasks.letters import CHATML, UNMARKED
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.torch_models.tiny import FAMILIES, sums

ROLES = ("system", "user", "assistant", "user", "assistant")
TALKS = [("Be brief.", "One?", "One.", "Two?", "Two." if i % 4 else "Two. " * 50) for i in range(8)]

app = typer.Typer()
for command in (tune, prune, quantize):
    app.command()(command)


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_three_commands_chain(tmp_path: Path) -> None:
    dense = write_tiny_checkpoint(tmp_path / "dense")
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(json.dumps({"prompt": s.prompt, "answer": s.answer}) + "\n" for s in sums(20)))
    table = call("prune", dense, tmp_path / "pruned", "-s", 0.5, "--task", data, "--calibration-samples", 8)
    assert "model.layers.1.mlp.down_proj" in table
    assert "50.00% zeros" in table
    options = ["--teacher", dense, "--squarehead", 1, "--max-steps", 2, "--batch-size", 4, "--micro-batch-size", 2]
    said = call("tune", tmp_path / "pruned", tmp_path / "sparse", "--task", data, *options)
    assert "zeros per layer 50.00% to 50.00%" in said
    report = json.loads(call("quantize", tmp_path / "sparse", tmp_path / "int8", "--task", data, "--json"))
    assert report["sparsity"] >= 0.5
    assert report["output"] == str(tmp_path / "int8")


def test_conversations_are_learned_and_calibrated_with_and_long_ones_counted(tmp_path: Path) -> None:
    dense = write_tiny_checkpoint(tmp_path / "dense")
    tokenizer = AutoTokenizer.from_pretrained(dense)
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(dense)
    turns = [[{"role": role, "content": text} for role, text in zip(ROLES, texts, strict=True)] for texts in TALKS]
    data = tmp_path / "talks.jsonl"
    data.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in turns))
    common = ["--task", data, "--max-length", 200, "--json"]
    few = [*common, "--calibration-samples", 8]
    steps = [*common, "--max-steps", 2, "--batch-size", 3, "--micro-batch-size", 3]
    dropped, cut = {"samples": 6, "dropped": 2, "cut": 0}, {"samples": 8, "dropped": 0, "cut": 2}
    pruned = json.loads(call("prune", dense, tmp_path / "pruned", *few))
    assert (pruned["data"], pruned["settings"]["method"]) == (dropped, "alps")
    tuned = json.loads(call("tune", tmp_path / "pruned", tmp_path / "sparse", *steps))
    assert tuned["data"] == dropped
    assert min(tuned["sparsity"].values()) >= 0.5
    rounded = json.loads(call("quantize", tmp_path / "sparse", tmp_path / "int8", *few, "--long", "cut"))
    assert rounded["data"] == cut
    with pytest.raises(CutworkError, match=r"set task\.long to drop or cut"):
        call("tune", dense, tmp_path / "no", *steps, "--long", "error")
    said = CliRunner().invoke(app, ["tune", str(dense), str(tmp_path / "no"), *map(str, steps), "--dry-run"]).stderr
    assert "2 of 8 samples have more than task.max_length = 200 tokens: 2 left out" in " ".join(said.split())
    assert "«Two.<|im_end|>»" in said


def test_a_recipe_says_how_much_is_trained_on_and_how_long_it_may_be(tmp_path: Path) -> None:
    dense, data = write_tiny_checkpoint(tmp_path / "dense"), tmp_path / "sums.jsonl"
    rows = [{"prompt": f"{i}?", "answer": "x" * (700 if i == 5 else 3)} for i in range(2020)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = tmp_path / "test.jsonl"
    asked.write_text(json.dumps({"prompt": "what?", "answer": "y"}) + "\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"name: a\nmodel: {dense}\noutput: {tmp_path / 'run'}\ntask:\n  name: {asked}\n  train_samples: 2010\n"
        f"  options: {{train: {data}}}\n  test_samples: 1\n  max_length: 900\n  long: error\n"
    )
    steps = ["--max-steps", 1, "--batch-size", 4, "--json"]
    report = json.loads(call("tune", dense, tmp_path / "out", "--recipe", recipe, *steps))
    assert report["data"] == {"samples": 2010, "dropped": 0, "cut": 0}
    with pytest.raises(CutworkError, match=r"more than task\.max_length = 100"):
        call("tune", dense, tmp_path / "no", "--recipe", recipe, *steps, "--max-length", 100)


def test_rounding_is_trained_on_what_a_recipe_trains_on(tmp_path: Path) -> None:
    dense, data = write_tiny_checkpoint(tmp_path / "dense"), tmp_path / "sums.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"{i}?", "answer": f"{i}"}) + "\n" for i in range(50)))
    held, whole = (tmp_path / name for name in ("held.yaml", "whole.yaml"))
    common = f"name: a\nmodel: {dense}\noutput: {tmp_path / 'run'}\ntask:\n  name: jsonl\n  train_samples: 40\n"
    common += f"  options: {{train: {data}, test: {data}}}\n  test_samples: 1\n"
    held.write_text(common + "  validation_samples: 5\n")
    whole.write_text(common)
    qat = ["--method", "qat", "--steps", 3, "--json"]
    json.loads(call("quantize", dense, tmp_path / "int8", "--recipe", held, *qat))
    with pytest.raises(CutworkError, match="more would move what it holds out for validation"):
        training_task(None, held, 45, 0, validation=5)
    assert len(training_task(None, whole, 45, 0, validation=5).train) > 40  # but for what is asked


def test_what_holds_nothing_to_learn_is_left_out(tmp_path: Path) -> None:
    dense = write_tiny_checkpoint(tmp_path / "dense")
    tokenizer = AutoTokenizer.from_pretrained(dense)
    tokenizer.chat_template = UNMARKED
    tokenizer.save_pretrained(dense)
    data = tmp_path / "talks.jsonl"
    talks = [("user", "One?"), ("assistant", "1")], [("assistant", "Hello."), ("user", "Bye.")]
    rows = [
        {"messages": [{"role": role, "content": text} for role, text in talk]} for talk in (*talks[:1] * 3, talks[1])
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    steps = ["--task", data, "--max-steps", 1, "--batch-size", 3, "--micro-batch-size", 1]
    result = CliRunner().invoke(app, ["tune", str(dense), str(tmp_path / "out"), *map(str, steps)])
    assert result.exit_code == 0 and "1 of 4 samples hold nothing to learn: 1 left out" in result.stderr
    data.write_text(json.dumps(rows[-1]) + "\n")
    with pytest.raises(CutworkError, match="every sample holds nothing to learn"):
        call("tune", dense, tmp_path / "no", *steps)


def test_a_part_of_the_samples_is_measured_with(tmp_path: Path) -> None:
    dense = write_tiny_checkpoint(tmp_path / "dense")
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(json.dumps({"prompt": s.prompt, "answer": s.answer}) + "\n" for s in sums(20)))
    steps = ["--task", data, "--max-steps", 2, "--batch-size", 4, "--save-every", 1, "--report-to", "none"]
    options = ["--validation-samples", 5, "--keep-best"]
    said = call("tune", dense, tmp_path / "out", *steps, *options)
    assert re.search(r"validation loss \d\.\d+ \(step [12]\), zeros", said)
    report = json.loads((tmp_path / "out" / "tune-report.json").read_text())
    assert (report["data"]["samples"], report["validation"]["samples"]) == (15, 5)
    assert not (tmp_path / "out" / "runs").exists()
    with pytest.raises(CutworkError, match="--validation-samples"):
        call("tune", dense, tmp_path / "no", *steps, "--patience", 3)


def test_a_dataset_of_the_hub_needs_no_test_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense, asked = write_tiny_checkpoint(tmp_path / "dense"), []

    def hub(name: str, split: str, config: str | None = None) -> Iterator[dict[str, str]]:
        asked.append((name, split))
        return ({"instruction": s.prompt, "input": "", "output": s.answer} for s in sums(20))

    monkeypatch.setattr("cutwork.tasks.table.hub", hub)
    options = ["--samples", 12, "--validation-samples", 4, "--max-steps", 1, "--batch-size", 4, "--json"]
    report = json.loads(call("tune", dense, tmp_path / "out", "--task", "someone/alpaca", *options))
    assert asked == [("someone/alpaca", "train")]
    assert (report["data"]["samples"], report["validation"]["samples"]) == (12, 4)


def test_bad_options_are_one_sentence(tmp_path: Path) -> None:
    dense = write_tiny_checkpoint(tmp_path / "dense")
    with pytest.raises(CutworkError, match=r"^--sparsity: .*less than 1 \(got 1\.5\)"):
        call("prune", dense, tmp_path / "out", "-s", 1.5)
    with pytest.raises(CutworkError, match="--task"):
        call("prune", dense, tmp_path / "out")
    with pytest.raises(CutworkError, match=r"^--ce: "):
        call("tune", dense, tmp_path / "out", "--ce", -1)
    with pytest.raises(CutworkError, match="at least one of ce, kl and squarehead"):
        call("tune", dense, tmp_path / "out", "--ce", 0)
    with pytest.raises(CutworkError, match="--teacher is for --kl and --squarehead alone"):
        call("tune", dense, tmp_path / "out", "--teacher", dense)
    with pytest.raises(CutworkError, match=r"^--module: .*less than 1 \(got 2\.0\)"):
        call("prune", dense, tmp_path / "out", "--method", "magnitude", "--module", "*=2")
    with pytest.raises(CutworkError, match=r"^--lr: .*finite \(got nan\)"):
        call("quantize", dense, tmp_path / "out", "--method", "qat", "--lr", "nan")
    with pytest.raises(CutworkError, match=r"^--lora-alpha: "):
        call("tune", dense, tmp_path / "out", "--task", "gsm8k", "--lora-rank", 2, "--lora-alpha", "nan")
    for option, value in (("--steps", 5), ("--lr", 1e-4)):
        with pytest.raises(CutworkError, match=f"^{option} is for --method qat alone"):
            call("quantize", dense, tmp_path / "out", "--method", "rtn", option, value)
    with pytest.raises(CutworkError, match=r"^--activation-memory: input should be a finite number \(got inf\)"):
        call("prune", dense, tmp_path / "out", "--method", "magnitude", "--activation-memory", "inf")
    with pytest.raises(CutworkError, match="no task 'gsm9k'"):
        call("tune", dense, tmp_path / "out", "--task", "gsm9k")
    with pytest.raises(CutworkError, match="no model directory"):
        call("tune", tmp_path / "nowhere", tmp_path / "out", "--task", "gsm8k")


def test_overrides_choose_other_schemes(tmp_path: Path) -> None:
    dense = write_tiny_checkpoint(tmp_path / "dense")
    chosen = ["--override", "*.down_proj=w4a16", "--override", "*.up_proj=skip"]
    report = json.loads(call("quantize", dense, tmp_path / "out", "--method", "rtn", "--json", *chosen))
    bits = {layer["name"].rpartition(".")[2]: layer["bits"] for layer in report["layers"]}
    assert bits["down_proj"] == 4 and bits["gate_proj"] == 8 and "up_proj" not in bits
    for wrong in ("*.down_proj=w2", "w4a16", "=skip"):
        with pytest.raises(CutworkError, match=r"--override .*: expected PATTERN=SCHEME"):
            call("quantize", dense, tmp_path / "none", "--method", "rtn", "--override", wrong)


def test_the_head_is_quantised_too(tmp_path: Path) -> None:
    dense = write_tiny_checkpoint(tmp_path / "dense")
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"{i} + 1 =", "answer": f" {i + 1}"}) + "\n" for i in range(8)))
    four = ["--scheme", "w4a16", "--head", "w4a16", "--group-size", 32, "--calibration-samples", 4]
    report = json.loads(call("quantize", dense, tmp_path / "out", "--task", data, "--json", *four))
    [head] = [layer for layer in report["layers"] if layer["name"] == "lm_head"]
    assert head["bits"] == 4 and head["output_error"] < head["output_error_of_rounding"]


@pytest.mark.parametrize("name", ["tune", "prune", "quantize"])
def test_help_has_an_example(name: str) -> None:
    assert f"cutwork {name} " in call(name, "--help")


@pytest.mark.parametrize(("family", "method"), [("t5", "alps"), ("whisper", "magnitude")])
def test_models_with_an_encoder_are_pruned(family: str, method: str, tmp_path: Path) -> None:
    dense = write_tiny_checkpoint(tmp_path / "dense")
    model = FAMILIES[family]()
    model.resize_token_embeddings(300)
    model.save_pretrained(tmp_path / family)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / family / name).write_bytes((dense / name).read_bytes())
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(json.dumps({"prompt": s.prompt, "answer": s.answer}) + "\n" for s in sums(9)))
    unpruned = "*.fc1=0" if family == "whisper" else "*.wi=0"
    options = ["--method", method, "--pattern", "4:8", "--module", unpruned]
    if method == "magnitude":
        with pytest.raises(CutworkError, match="magnitude looks at no data; leave out --task"):
            call("prune", tmp_path / family, tmp_path / "out", *options, "--task", data)
    else:
        options += ["--task", data]
    report = json.loads(call("prune", tmp_path / family, tmp_path / "out", *options, "--json"))
    assert {layer["sparsity"] for layer in report["layers"]} == {0.5}
    sides = {".encoder.", ".decoder."} if family == "whisper" else {"encoder.", "decoder."}
    assert all(any(side in layer["name"] for layer in report["layers"]) for side in sides)
    with pytest.raises(CutworkError, match="--module: expected GLOB=RATE"):
        call("prune", tmp_path / family, tmp_path / "b", "--task", data, "--module", "fc1")
    with pytest.raises(CutworkError, match=r"^pattern 4:8 makes 0.5 zeros"):
        call("prune", tmp_path / family, tmp_path / "b", "--task", data, "--pattern", "4:8", "-s", 0.7)


def test_calibration_draws_from_all_samples(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"prompt": str(i), "answer": "a"}) + "\n" for i in range(50)))
    assert len(training_task(str(data), None, None, 0, least=8).train) == 50
    assert len(training_task(str(data), None, 8, 0).train) == 8
    recipe = tmp_path / "recipe.yaml"
    options = {"train": str(data), "test": str(data)}
    task = {"name": "jsonl", "options": options, "train_samples": 20, "test_samples": 2}
    recipe.write_text(yaml.safe_dump({"name": "a", "model": "m", "output": "o", "task": task, "tune": {}}))
    for count, least, found in ((None, 8, 20), (None, 30, 20), (5, 1, 5), (40, 1, 40)):
        assert len(training_task(None, recipe, count, 0, least=least).train) == found
    held = yaml.safe_load(recipe.read_text())
    held["task"]["validation_samples"] = 5
    recipe.write_text(yaml.safe_dump(held))
    with pytest.raises(CutworkError, match="more would move what it holds out for validation"):
        training_task(None, recipe, 40, 0)


def test_task_options_name_columns_and_what_a_task_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "rows.csv"
    data.write_text("Frage,Antwort,2\nHi,Hallo,a\n\nBye,Tschau,b\n")
    found = training_task(str(data), None, None, 0, options=["prompt={2}: {Frage}", "answer=Antwort"]).train
    assert found == (Sample("a: Hi", "Hallo"), Sample("b: Bye", "Tschau"))
    pairs = ["source=Frage", "target=Antwort", "prefix=to German: ", "source_language=en", "target_language=de"]
    [first, _] = training_task(str(data), None, None, 0, options=pairs).train
    assert (first.prompt, first.languages) == ("to German: Hi", ("en", "de"))
    (tmp_path / "text.txt").write_text("one two three")
    (tmp_path / "test.txt").write_text("one ")
    texts = [f"train={tmp_path / 'text.txt'}", f"test={tmp_path / 'test.txt'}"]
    assert len(training_task("text", None, None, 0, options=[*texts, "characters=5"]).train) == 2  # and one to test
    asked = []
    monkeypatch.setattr(
        "cutwork.tasks.table.hub", lambda *about: asked.append(about) or [{"prompt": "Hi", "answer": "Hello"}]
    )
    training_task("someone/chats", None, None, 0, options=["config=main", "train_split=train[:9]"])
    assert asked == [("someone/chats", "train[:9]", "main")]
    rows = TaskSettings(name=str(data), test_samples=1, options={"prompt": 2, "answer": "Antwort"})
    assert load_task(rows).test == (Sample("a", "Hallo"),)  # YAML reads a column's name as a number
    for options, message in (
        (["prompt"], "--task-option prompt: expected KEY=VALUE"),
        (["prompts=Frage"], "no option 'prompts'; it has test, train, prompt"),
        ([f"train={data}"], "leave out the options train and test"),
        (["prompt=Farge", "answer=Antwort"], "expected a text 'Farge'; there are Frage"),
    ):
        with pytest.raises(CutworkError, match=re.escape(message)):
            training_task(str(data), None, None, 0, options=options)
    with pytest.raises(CutworkError, match="--task-option is for --task alone"):
        training_task(None, tmp_path / "recipe.yaml", None, 0, options=["prompt=Frage"])


@pytest.mark.parametrize("seed", [0, 1])
def test_what_eval_may_ask_is_not_trained_on(seed: int) -> None:
    pytest.importorskip("reasoning_gym")
    asked = load_task(TaskSettings(name="gsm_symbolic", train_samples=1, test_samples=LEFT_TO_EVAL)).test
    task = training_task("gsm_symbolic", None, 300, seed, validation=20)
    assert (len(task.train), len(task.validation)) == (300, 20)
    assert not {sample.prompt for sample in asked} & {sample.prompt for sample in (*task.train, *task.validation)}


@pytest.mark.parametrize("name", ["jsonl", "translation", "text"])
@pytest.mark.parametrize("one_file", [True, False])
def test_what_eval_may_ask_of_files_is_not_trained_on(name: str, one_file: bool, tmp_path: Path) -> None:
    def write(file: str, count: int) -> str:
        rows = [json.dumps({"source": f"{i}", "target": "a", "prompt": f"{i}", "answer": "a"}) for i in range(count)]
        words = "".join(f"word{i:04} " for i in range(count))
        (tmp_path / file).write_text(words if name == "text" else "\n".join(rows))
        return str(tmp_path / file)

    train = write("rows.jsonl", LEFT_TO_EVAL + 20)
    options = [f"train={train}", f"test={train if one_file else write('test.jsonl', 300)}"]
    options += ["characters=10"] if name == "text" else []
    task = training_task(name, None, 2000, 0, validation=5, options=options)
    settings = _settings(name, options, None, LEFT_TO_EVAL, None)
    assert settings
    asked = {sample.asked() for sample in load_task(settings).test}
    assert len(asked) == (LEFT_TO_EVAL if one_file else 300)
    assert len(task.train) + len(task.validation) == LEFT_TO_EVAL + 20 - len(asked)
    assert not asked & {sample.asked() for sample in (*task.train, *task.validation)}
    if not one_file:
        assert _settings(name, options, None, LEFT_TO_EVAL + 1, None)
        return
    with pytest.raises(CutworkError, match="what comes after 1000 is what tune trains on"):
        _settings(name, options, None, LEFT_TO_EVAL + 1, None)
    write("rows.jsonl", 300)
    with pytest.raises(CutworkError, match=r"training and test both, .* first 1,000 are left to eval, and it has 300"):
        training_task(name, None, None, 0, options=options)


def test_adapters_have_to_be_asked_for(tmp_path: Path) -> None:
    for option, value in (("--lora-targets", "q_proj"), ("--lora-alpha", 8)):
        with pytest.raises(CutworkError, match="are for --lora-rank alone"):
            call("tune", tmp_path, tmp_path / "out", "--task", "gsm8k", option, value)
    with pytest.raises(CutworkError, match=r"--lora-alpha: input should be greater than 0"):
        call("tune", tmp_path, tmp_path / "out", "--task", "gsm8k", "--lora-rank", 4, "--lora-alpha", 0)


def test_all_recordings_are_trained_on_and_some_calibrated_with(tmp_path: Path) -> None:
    pytest.importorskip("soundfile")
    for split, count in (("train", 12), ("test", 1)):
        (tmp_path / split).mkdir()
        lines = []
        for i in range(count):
            with wave.open(str(tmp_path / split / f"{i}.wav"), "wb") as file:
                file.setparams((1, 2, 16000, 0, "NONE", ""))
                file.writeframes(bytes(320))
            lines.append(json.dumps({"file_name": f"{i}.wav", "text": f"{split} {i}"}))
        (tmp_path / split / "metadata.jsonl").write_text("\n".join(lines))
    assert len(training_task(str(tmp_path), None, None, 0).train) == 12
    assert len(training_task(str(tmp_path), None, None, 0, least=8).train) == 8


TOO_LITTLE = "out of memory; lower micro_batch_size"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), TOO_LITTLE),
        (RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried"), TOO_LITTLE),
        (MemoryError(), "out of memory; use a smaller batch, context or model\n"),
        (RuntimeError("can't start new thread"), "the system starts no more threads"),
        (RuntimeError("the system refuses to start 99 threads"), "the system starts no more threads"),
    ],
)
def test_too_little_memory_is_one_sentence(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("cutwork.cli.app", fail)
    with pytest.raises(SystemExit):
        cutwork.cli.main()
    assert capsys.readouterr().err.startswith(f"error: {said}")
