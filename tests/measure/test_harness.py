"""lm-eval asks the engine: log-likelihoods are the model's own, and scores those of lm-eval's own `hf` models."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

pytest.importorskip("lm_eval")
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from rich.console import Console

from cutwork.cli import app
from cutwork.engine.model import Model
from cutwork.errors import CutworkError
from cutwork.measure.context import check_comparable
from cutwork.measure.harness import EngineLM, _options, check_tasks, lm_eval
from cutwork.recipe import CompareSettings, Recipe
from cutwork.run.run import run
from tests.tiny_checkpoint import write_tiny_checkpoint

CHOICE = """
task: choice
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{label}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
ANSWER = """
task: answer
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[label]}}"
generation_kwargs: {until: ["e", "\\n"], max_gen_toks: 6, do_sample: false}
metric_list: [{metric: exact_match}]
"""
TEXT = """
task: text
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: bits_per_byte}]
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The three kinds of tasks, on rows of their own."""
    home = tmp_path_factory.mktemp("tasks")
    rows = [
        {"question": f"{i} and {i + 3} are", "choices": [f" {i + j}" for j in range(4)], "label": i % 4}
        for i in range(24)
    ]
    (home / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = f"dataset_path: json\ntest_split: test\ndataset_kwargs: {{data_files: {{test: {home}/rows.jsonl}}}}\n"
    for name, text in (("choice", CHOICE), ("answer", ANSWER), ("text", TEXT)):
        (home / f"{name}.yaml").write_text(source + text)
    return [str(home / f"{name}.yaml") for name in ("choice", "answer", "text")]


@pytest.fixture(scope="module")
def model(directory: Path) -> Iterator[Model]:
    with Model.load(directory, threads=1, max_context=64, max_batch=4) as loaded:
        yield loaded


def request(*args: Any) -> SimpleNamespace:
    return SimpleNamespace(args=args)


def logprobs(directory: Path, tokens: list[int]) -> torch.Tensor:
    """Of every token but the first, and whether each is the likeliest: [2, T - 1]."""
    with torch.no_grad():
        rows = AutoModelForCausalLM.from_pretrained(directory)(torch.tensor([tokens])).logits[0, :-1].log_softmax(-1)
    targets = torch.tensor(tokens[1:])
    return torch.stack([rows.gather(1, targets[:, None])[:, 0], (rows.argmax(-1) == targets).float()])


def test_log_likelihoods_are_those_of_the_model(model: Model, directory: Path) -> None:
    asked, context = EngineLM(model), "Seven and three are"
    likeliest = model.generate(context, max_new_tokens=2, ignore_eos=True, skip_special_tokens=False).tokens
    [(found, greedy), (best, is_best)] = asked._loglikelihood_tokens(
        [(("", ""), model.encode(context), model.encode(" ten")), (("", ""), model.encode(context), likeliest)]
    )
    expected = logprobs(directory, model.encode(f"{context} ten"))[:, -4:]
    assert (found, greedy) == (pytest.approx(expected[0].sum().item(), rel=1e-4), bool(expected[1].all()))
    assert is_best and best > found
    assert asked.loglikelihood([request(context, " ten")]) == [(found, greedy)]


def test_choices_of_one_token_are_read_at_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, context = EngineLM(model), model.encode("A, B or C?")
    requests = [(("", ""), context, [token]) for token in model.encode("ABC")]
    apart = [asked._loglikelihood_tokens([request])[0] for request in requests]
    reads, original = [], model.logits
    monkeypatch.setattr(model, "logits", lambda *args, **how: (reads.append(args), original(*args, **how))[1])
    together = asked._loglikelihood_tokens([requests[0], (("", ""), context, [5, 6]), *requests[1:]])
    del together[1]
    assert len(reads) == 1
    assert [greedy for _, greedy in together] == [greedy for _, greedy in apart]
    assert [found for found, _ in together] == pytest.approx([found for found, _ in apart], rel=1e-5)


def test_a_text_longer_than_the_context_is_read_in_windows(model: Model, directory: Path) -> None:
    text = "Many words, and then some more of them, so that it does not fit in sixty-four tokens."
    [found] = EngineLM(model).loglikelihood_rolling([request(text)])
    tokens = [model.tokenizer.eos_token_id, *model.encode(text)]
    first = logprobs(directory, tokens[:65])[0].sum()
    second = logprobs(directory, tokens[len(tokens) - 65 :])[0][65 - len(tokens) :].sum()
    assert found == pytest.approx((first + second).item(), rel=1e-4)


def test_texts_are_cut_where_lm_evals_own_models_cut_them(model: Model, directory: Path) -> None:
    theirs = HFLM(pretrained=str(directory), dtype="float32", max_length=64, device="cpu")
    long = "Many words, and then some more of them, so that it does not fit in sixty-four tokens, or twice. " * 2
    asked = EngineLM(model)
    assert asked.loglikelihood_rolling([request(long)]) == pytest.approx(
        theirs.loglikelihood_rolling([request(long)], disable_tqdm=True), rel=1e-4
    )
    requests = [(("", ""), model.encode(long), model.encode(answer)) for answer in ("A", "B", " and so on")]
    ours = asked._loglikelihood_tokens(requests)
    expected = theirs._loglikelihood_tokens(requests, disable_tqdm=True)
    assert [greedy for _, greedy in ours] == [bool(greedy) for _, greedy in expected]
    assert [found for found, _ in ours] == pytest.approx([found for found, _ in expected], rel=1e-4)
    whole = [(("", ""), [5], [7] * 64)]
    assert asked._loglikelihood_tokens(whole)[0][0] == pytest.approx(
        theirs._loglikelihood_tokens(whole, disable_tqdm=True)[0][0], rel=1e-4
    )
    with pytest.raises(CutworkError, match="a continuation of 65 tokens exceeds the context"):
        asked._loglikelihood_tokens([(("", ""), [5], [7] * 65)])


def test_answers_end_where_they_are_told_and_settings_are_the_engines(model: Model) -> None:
    asked, prompts = EngineLM(model), ["One", "Two and a long prompt " * 9, "Three"]
    ends = _options({"until": ["<|im_end|>", "Question:"]}, {"<|im_end|>": 7, "<|im_start|>": 6})
    assert ends["stop_token_ids"] == [7] and ends["stop"] == ["<|im_end|>", "Question:"]
    greedy = {"until": [], "max_gen_toks": 5, "do_sample": False, "temperature": 0.7}
    answers = asked.generate_until([request(prompt, greedy) for prompt in prompts])
    expected = [model.generate(model.encode(prompt)[-59:], max_new_tokens=5).text for prompt in prompts]
    assert answers == expected
    until = answers[0][2:4]
    cut = asked.generate_until([request(prompts[0], {**greedy, "until": until})])
    assert cut == [answers[0].partition(until)[0]] != answers[:1]
    with pytest.raises(CutworkError, match="settings of generation num_beams are not known"):
        asked.generate_until([request("One", {"num_beams": 3})])


def test_scores_are_those_of_lm_evals_own_models(model: Model, directory: Path, tasks: list[str]) -> None:
    ours = lm_eval(model, tasks)
    options = f"pretrained={directory},dtype=float32,max_length=64"
    theirs = simple_evaluate(model="hf", model_args=options, tasks=tasks, device="cpu", batch_size=4)["results"]
    assert {*ours} == {"choice", "answer", "text"}
    for task, metric in (
        ("choice", "acc"),
        ("choice", "acc_norm"),
        ("answer", "exact_match"),
        ("text", "bits_per_byte"),
    ):
        assert ours[task][metric] == pytest.approx(theirs[task][f"{metric},none"], rel=1e-4)
    assert 0 < ours["choice"]["acc"] < 1


def test_a_recipe_may_ask_its_models_too(directory: Path, tasks: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"{i}", "answer": "a"}) + "\n" for i in range(9)))
    few = {"accuracy_samples": 2, "max_new_tokens": 2, "perplexity_tokens": 16, "prompt_tokens": 8, "decode_tokens": 2}
    recipe = Recipe.model_validate(
        {
            "name": "asked",
            "model": str(directory),
            "output": str(tmp_path / "out"),
            "task": {"name": "jsonl", "options": {"train": str(rows), "test": str(rows)}, "test_samples": 2},
            "prune": {"method": "magnitude"},
            "tune": {"max_steps": 1, "batch_size": 2},
            "quantize": None,
            "compare": {**few, "repeats": 1, "threads": 1, "lm_eval": tasks[:1], "lm_eval_limit": 4},
        }
    )
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "cutwork.measure.harness")
        patch.setitem(sys.modules, "lm_eval", None)
        with pytest.raises(ModuleNotFoundError, match="lm_eval"):
            run(recipe)
        assert not (tmp_path / "out").exists()
    misspelt = recipe.model_copy(update={"compare": recipe.compare.model_copy(update={"lm_eval": ("hellaswg",)})})
    with pytest.raises(CutworkError, match="lm-eval has no task 'hellaswg'"):
        run(misspelt, console=Console(quiet=True))
    assert not (tmp_path / "out").exists()
    output = run(recipe, console=Console(quiet=True))
    variants = json.loads((output / "results.json").read_text())["variants"]
    assert all(row["lm_eval"]["choice"]["sample_len"] == 4 for row in variants)
    assert "| choice acc_norm |" in (output / "results.md").read_text()
    fewer = recipe.model_copy(update={"compare": recipe.compare.model_copy(update={"lm_eval_limit": 2})})
    with monkeypatch.context() as patch:  # what was answered before is not asked again
        patch.setattr("cutwork.measure.compare.accuracy", None)
        again = json.loads((run(fewer, console=Console(quiet=True)) / "results.json").read_text())["variants"]
    assert all(row["lm_eval"]["choice"]["sample_len"] == 2 for row in again)


def test_what_cannot_be_asked_is_told_before_any_work(
    directory: Path, model: Model, tasks: list[str], tmp_path: Path
) -> None:
    given = Path(tasks[0]).read_text()
    for text, said in (
        ("task: [", "ParserError"),
        (given.replace("{{question}}", "{{nothing.there}}"), "'nothing' is undefined"),
        (f"{given}num_fewshot: 99\nfewshot_split: test\n", "[Ss]ample"),
        (given.replace("dataset_path: json", "dataset_path: nowhere"), "lm-eval could not load its data"),
    ):
        (tmp_path / "task.yaml").write_text(text)
        with pytest.raises(CutworkError, match=said):
            check_tasks([str(tmp_path / "task.yaml")])
    with pytest.raises(CutworkError, match="lm-eval cannot ask its tasks so"):
        lm_eval(model, tasks[:1], fewshot=99)


def test_an_encoder_or_a_short_context_is_told_before_any_work() -> None:
    config = {"model_type": "t5", "d_model": 8, "num_heads": 2, "n_positions": 64}
    with pytest.raises(CutworkError, match=r"compare\.lm_eval: lm-eval's tasks are for decoder-only models; leave it"):
        check_comparable(config, CompareSettings(lm_eval=("gsm8k",)))
    short = {"model_type": "gpt2", "n_positions": 64}
    with pytest.raises(CutworkError, match="compare: 65 tokens do not fit the context of 64; set prompt_tokens or"):
        check_comparable(short, CompareSettings(prompt_tokens=32, decode_tokens=32))
    check_comparable(short, CompareSettings(prompt_tokens=32, decode_tokens=31))


def test_what_lm_eval_prints_is_no_part_of_ours(
    model: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def bootstraps(**_: object) -> dict[str, Any]:
        print("bootstrapping for stddev")
        return {"results": {}}

    monkeypatch.setattr("cutwork.measure.harness.simple_evaluate", bootstraps)
    lm_eval(model, [])
    assert capsys.readouterr() == ("", "bootstrapping for stddev\n")


def test_the_command(directory: Path, tasks: list[str]) -> None:
    arguments = ["eval", str(directory), "--threads", "1", "--context", "64", "--limit", "3"]
    outcome = CliRunner().invoke(app, [*arguments, "--lm-eval", ",".join(tasks[:2]), "--json"])
    assert outcome.exit_code == 0, outcome.output
    found = json.loads(outcome.stdout)["lm_eval"]
    assert found["choice"]["sample_len"] == 3
    outcome = CliRunner().invoke(app, [*arguments, "--lm-eval", tasks[0]])
    assert f"choice: acc {found['choice']['acc']:.4g}" in outcome.stdout
    outcome = CliRunner().invoke(app, [*arguments, "--lm-eval", "hellaswagg"])
    assert isinstance(outcome.exception, CutworkError) and "lm-eval has no task 'hellaswagg'" in str(outcome.exception)
    code = "import sys; sys.modules['lm_eval'] = None; from cutwork.cli import main; main()"
    missing = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--lm-eval", "hellaswag"], capture_output=True, text=True, check=False
    )
    assert missing.returncode == 1
    assert missing.stderr.splitlines()[-1].endswith('run: pip install "lm-eval>=0.4.9"')


def test_templates_that_refuse_are_asked_otherwise(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = EngineLM(model)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "One?"}]
    no_system = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ m.content }}{% endfor %}>"
    )
    monkeypatch.setattr(model.tokenizer, "chat_template", no_system)
    assert asked.apply_chat_template(turns) == "One?>"
    monkeypatch.setattr(model.tokenizer, "chat_template", "{{ raise_exception('never') }}")
    with pytest.raises(CutworkError, match="the model's chat template refuses what lm-eval asks: never"):
        asked.apply_chat_template(turns)
    monkeypatch.setattr(model.tokenizer, "chat_template", None)
    with pytest.raises(CutworkError, match="no chat template; ask without --chat-template"):
        lm_eval(model, [], chat=True)


def test_what_a_task_needs_and_is_not_installed_is_one_sentence(
    model: Model, tasks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacks(**_: object) -> None:
        raise ModuleNotFoundError("No module named 'langdetect'")

    monkeypatch.setattr("cutwork.measure.harness.simple_evaluate", lacks)
    with pytest.raises(CutworkError, match="need more packages: No module named 'langdetect'"):
        lm_eval(model, tasks)
