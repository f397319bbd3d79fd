import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from reasoning_gym.arithmetic.gsm_symbolic.gsm_symbolic import tasks_ok

from benchmarks.evidence import (
    beyond,
    feature_loss,
    gsm8k,
    levels,
    mask_search,
    new_losses,
    new_numbers,
    one_shot,
    own_rates,
    pareto,
    patterns,
    report,
    step_times,
    tuned_patterns,
)
from benchmarks.evidence.cells import Cell
from benchmarks.evidence.data import splits
from benchmarks.evidence.designs import DESIGNS, LOSSES
from benchmarks.evidence.seen_numbers import seen_numbers
from benchmarks.evidence.seen_steps import equations, seen_steps
from benchmarks.evidence.statistics import (
    bootstrap_p,
    holm,
    mcnemar,
    packed,
    paired_bootstrap,
    unpacked,
)
from cutwork.measure.interval import wilson
from cutwork.prune.pattern import KeepNOfM
from cutwork.prune.rates import pattern_of
from cutwork.recipe import load_recipe
from cutwork.tasks.gsm_symbolic import numbers
from cutwork.tasks.task import Sample, Task
from cutwork.torch_models.blocks import block_linears
from tests.torch_models.tiny import llama


def right(share: float, seeds: int, questions: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((seeds, questions)) < share


def test_wilson_is_the_textbooks() -> None:
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I
    assert wilson(0, 20)[0] == pytest.approx(0, abs=1e-12)


def test_the_bootstrap_agrees_with_the_normal_interval_of_one_seed() -> None:
    ours, theirs = right(0.7, 1, 2000), right(0.6, 1, 2000, seed=1)
    mean, low, high = paired_bootstrap(ours, theirs)
    difference = ours.astype(float) - theirs
    half = 1.96 * difference.std() / np.sqrt(difference.size)
    assert mean == pytest.approx(difference.mean())
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.004)
    assert bootstrap_p(ours, theirs) < 0.001
    assert bootstrap_p(ours, ours) == 1.0


def test_seeds_that_disagree_widen_the_interval() -> None:
    theirs = right(0.5, 3, 2000)
    steady = np.stack([row | (right(0.1, 1, 2000, seed)[0]) for seed, row in enumerate(theirs, 10)])
    moody = np.stack([steady[0] | right(0.2, 1, 2000, 20)[0], theirs[1], theirs[2]])
    widths = [np.diff(paired_bootstrap(ours, theirs)[1:])[0] for ours in (steady, moody)]
    assert widths[1] > 2 * widths[0]


def test_few_seeds_that_differ_are_covered() -> None:
    """Of experiments without a difference but that of seeds, the interval holds 0 nearly as often as it says."""
    random, held = np.random.default_rng(0), 0
    easy = random.beta(2, 2, 400)
    for _ in range(100):
        moods = np.clip(easy + random.normal(0, 0.05, (3, 1)), 0, 1)
        ours, theirs = random.random((3, 400)) < moods, random.random((3, 400)) < easy
        _, low, high = paired_bootstrap(ours, theirs, draws=1000)
        held += low <= 0 <= high
    assert held >= 93  # with the seeds as they are drawn it would be 91


def test_a_small_difference_with_a_wide_interval_is_not_told() -> None:
    assert report.at_most_below(2, (-1.0, -1.8, 0.0)) is True
    assert report.at_most_below(2, (-1.0, -3.5, 1.5)) is None
    assert report.at_most_below(2, (-3.0, -5.0, -1.0)) is False


def test_the_bootstrap_refuses_what_is_not_paired() -> None:
    with pytest.raises(ValueError, match="seeds, questions"):
        paired_bootstrap(right(0.5, 2, 10), right(0.5, 3, 10))


def test_mcnemar_counts_the_questions_that_only_one_has_right() -> None:
    ours = np.array([True] * 9 + [False] * 1 + [True] * 50)
    theirs = np.array([False] * 9 + [True] * 1 + [True] * 50)
    assert mcnemar(ours, theirs) == pytest.approx(2 * 11 / 1024)
    assert mcnemar(ours, ours) == 1.0


def test_holm() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})


def test_answers_survive_a_file() -> None:
    answers = right(0.5, 1, 2001)[0]
    assert (unpacked({"answers": packed(answers), "samples": 2001}) == answers).all()


def test_the_announced_templates_are_drawn() -> None:
    design = DESIGNS["announced"]
    drawn = Random(2310).sample(list(tasks_ok), 20)
    assert load_recipe(design.recipe).task.options["templates"] == drawn[:16]
    assert list(design.held_out) == drawn[16:]


def test_the_short_ones_are_too() -> None:
    """Sorted and drawn; that they are the short ones takes a tokenizer to see."""
    design = DESIGNS["short"]
    trained = load_recipe(design.recipe).task.options["templates"]
    drawn = Random(2310).sample(sorted([*trained, *design.held_out]), 10)
    assert (drawn[:8], tuple(drawn[8:])) == (trained, design.held_out)


@pytest.mark.parametrize("name", [name for name in DESIGNS if name != "gsm8k"])  # which has splits of its own
def test_the_splits_share_no_question(name: str) -> None:
    design = DESIGNS[name]
    recipe = load_recipe(design.recipe)
    assert not set(recipe.task.options["templates"]) & set(design.held_out)
    parts = splits(design, recipe)
    prompts = {name: {sample.prompt for sample in task.test} for name, task in parts.items()}
    test = recipe.task.test_samples - design.validation
    assert [len(found) for found in prompts.values()] == [design.validation, test, design.unseen]
    prompts["train"] = {sample.prompt for sample in parts["test"].train}
    everything = set().union(*prompts.values())
    assert len(everything) == sum(map(len, prompts.values()))


def test_cells_are_told_apart() -> None:
    cells = [Cell(loss, level, 0, 1e-4, steps) for loss in LOSSES for level in (0.75, 0.6) for steps in (100, 200)]
    assert len({cell.name for cell in cells}) == len(cells)


def test_comparisons_pair_seeds_and_mark_the_primary_outcome() -> None:
    theirs, ours = right(0.5, 2, 400), right(0.5, 2, 400) | right(0.3, 2, 400, seed=1)
    made = [
        {"kind": "core", "loss": loss, "level": 0.75, "seed": seed, "split": "test", "samples": 400}
        | {"answers": packed(answers[seed])}
        for loss, answers in (("CE", theirs), ("CE+SquareHead", ours))
        for seed in (0, 1)
    ]
    made.append({**made[0], "kind": "quantized", "answers": packed(~theirs[0])})  # is no cell
    line = report.comparisons({"rows": made}).splitlines()[-1]
    mean, low, high = (100 * value for value in paired_bootstrap(ours, theirs))
    assert line.startswith(f"| 75% | **CE+SquareHead** | test | 2 | {mean:+.1f} [{low:+.1f}, {high:+.1f}] |")


def model(engine: str, weights: str, zeros: float, share: float, decode: float, seed: int = 0) -> dict[str, object]:
    answers = np.arange(1000) < 1000 * share
    return {
        "engine": engine,
        "weights": weights,
        "zeros": zeros,
        "seed": seed,
        "right": int(answers.sum()),
        "samples": 1000,
        "answers": packed(answers),
        "bytes": 10**8,
        "decode, 1 threads": [decode - 1, decode, decode + 5],
        "prefill, 1 threads": [1000.0],
    }


FILES = [
    model("cutwork", "bf16", 0.0, 0.8, 100),
    model("cutwork", "int8", 0.75, 0.765, 330, seed=0),
    model("cutwork", "int8", 0.75, 0.775, 330, seed=1),
    model("cutwork", "int4", 0.75, 0.70, 500),
    model("llama.cpp", "Q4_K_M", 0.0, 0.79, 150),
    model("llama.cpp", "Q4_0", 0.0, 0.775, 200),
]


def test_a_sparse_file_pays_if_its_interval_is_within_a_point_of_a_4_bit_one() -> None:
    steady = model("cutwork", "int8", 0.75, 0.77, 320)
    files = [*FILES, model("cutwork", "int4", 0.0, 0.76, 300)]
    claims = report.pays({"models": files}, "fastest", "most accurate", "own")
    (_, fast, near), (_, accurate, missed), (_, own, slow) = claims
    assert fast.startswith("cutwork int8, 75% zeros (4:16), 2 seeds: -0.5 [") and near is None
    assert fast.endswith(" points, 1.65 times as fast as llama.cpp Q4_0, 1 seed")
    assert (accurate, missed) == ("none is that near to llama.cpp Q4_K_M", False)
    assert own.endswith(" points, 1.10 times as fast as cutwork int4, 1 seed") and slow is False
    told = [{**steady, "pattern": "unstructured"}, model("cutwork", "int8", 0.75, 0.70, 700, seed=2), *files[3:]]
    [(_, fast, met)] = report.pays({"models": told}, "fastest")  # the faster one is worse
    assert "(anywhere), 1 seed: -0.5 [-1.0, -0.1] points, 1.60 times" in fast and met is True


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
    assert bench.time(16, 128) == {"decode": 0.5} and bench.huge_share == 0.9
    assert bench.version == "abc, -rtr 1 -thp 1" and commands[0][-8:-4] == ["-p", "0", "-n", "128"]
    ours["decode, 1 threads"] = [900.0]
    assert pareto.rival({"models": [*their, ours]}, "fastest") == "ik_llama.cpp Q4_0"
    named = [{**FILES[1], "pattern": "unstructured", "loss": "CE"}]
    assert [name for name, _ in pareto.names(named)] == ["cutwork int8, 75% zeros (anywhere, CE)"]


def test_what_was_announced_is_met_or_missed() -> None:
    theirs, ours = right(0.5, 3, 1000), right(0.5, 3, 1000) | right(0.3, 3, 1000, seed=1)
    made = [
        {"kind": "core", "loss": loss, "level": 0.75, "seed": seed, "split": "test", "samples": 1000}
        | {"answers": packed(answers[seed])}
        for loss, answers in (("CE", theirs), ("CE+SquareHead", ours))
        for seed in range(3)
    ]
    made.append({"kind": "teacher", "split": "test", "samples": 1000, "answers": packed(ours[0])})
    verdicts = report.verdicts({"rows": made}, {"models": FILES}).splitlines()[2:]
    assert [line.endswith("| met |") for line in verdicts] == [True, False, True, False, False]
    assert "1.65 times as fast as llama.cpp Q4_0" in verdicts[-2] and verdicts[-2].endswith("| not told |")
    assert "llama.cpp Q4_K_M" in verdicts[-1]


def test_the_longer_experiment_is_held_against_teacher_and_control() -> None:
    ours, teacher = right(0.7, 2, 1000), right(0.72, 1, 1000, seed=1)[0]
    control = teacher | right(0.5, 1, 1000, seed=2)[0]
    about = {"split": "test", "samples": 1000, "loss": "CE"}
    made = [
        about
        | {"kind": "core", "level": 0.75, "seed": seed, "answers": packed(ours[seed]), "right": int(ours[seed].sum())}
        for seed in (0, 1)
    ]
    made.append(about | {"kind": "control", "level": 0.0, "seed": 0, "answers": packed(control)})
    made.append({"kind": "teacher", "split": "test", "samples": 1000, "answers": packed(teacher)})
    made.append(made[0] | {"kind": "quantized", "encoding": "int4", "right": int(ours[0].sum())})
    near, far, speed, _ = report.after_longer({"rows": made}, {"models": FILES}).splitlines()[2:]
    assert "1.65 times as fast as llama.cpp Q4_0" in speed
    assert near.endswith("| not told |") and far.endswith("| **missed** |") and "seeds: 2" in far
    expected = 100 * (ours.mean() - control.mean())
    assert f"| {expected:+.1f} [" in far
    assert report.files({"rows": made}).splitlines()[-1].startswith(f"| CE, int4 | 75% | {ours[0].mean():.1%} [")


def test_patterns_are_compared_with_zeros_anywhere_of_the_same_kind() -> None:
    def row(kind: str, pattern: str, method: str, share: float, seed: int) -> dict[str, object]:
        answers = right(share, 1, 400, seed)[0]
        found = {"right": int(answers.sum()), "samples": 400, "answers": packed(answers), "answer_perplexity": 1.1}
        return {"kind": kind, "pattern": pattern, "method": method, **found}

    rows = [
        row("one-shot", "unstructured", "alps", 0.6, 1),
        row("one-shot", "4:16", "alps", 0.4, 2),
        row("one-shot", "4:16", "sparsegpt", 0.4, 2),
        row("tuned", "4:16", "alps", 0.7, 3),
    ]
    lines = patterns.table({"rows": rows}).splitlines()[2:]
    compared = [line.split("|")[4].strip() != "" for line in lines]
    assert compared == [False, True, False, False]  # there is nothing to compare the others with
    difference = 100 * (rows[1]["right"] - rows[0]["right"]) / 400  # type: ignore[operator]
    assert f"{difference:+.1f} [" in lines[1]


def test_seeds_of_a_pattern_are_compared_with_their_own_zeros_anywhere() -> None:
    def row(pattern: str, seed: int, share: float) -> dict[str, object]:
        answers = right(share, 1, 400, 7 + seed)[0]
        found = {"right": int(answers.sum()), "samples": 400, "answers": packed(answers), "answer_perplexity": 1.1}
        return {"kind": "tuned", "pattern": pattern, "method": "alps", "seed": seed, "steps": 249, **found}

    free = [row("unstructured", seed, 0.8) for seed in (0, 1, 2)]
    rows = [*free, row("4:16", 0, 0.5), row("4:16", 1, 0.6)]
    line = patterns.table({"rows": rows}).splitlines()[3]
    shares = [each["right"] / 400 for each in rows]  # type: ignore[operator]
    difference = 50 * (shares[3] + shares[4] - shares[0] - shares[1])
    assert f"({shares[3]:.1%} / {shares[4]:.1%})" in line and f"{difference:+.1f} [" in line
    assert "alps, then fine-tuned for 249 steps" in line and line.split("|")[5].count("/") == 1


def test_a_cell_is_named_by_its_pattern_unless_it_is_the_recipes() -> None:
    assert Cell("CE", 0.75, 0, 4e-4, 83).name == "ce-75-rate0.0004-steps83-seed0"
    assert Cell("CE", 0.75, 0, 4e-4, 83, "2:8").name == "ce-75-2of8-rate0.0004-steps83-seed0"


def test_steps_are_told_by_their_equations() -> None:
    answer = "He has 33 - 9 = 24 marbles.\nTogether, 33 + 24 = 57, at $1,200/4=$300.\n#### 57"
    assert equations(answer) == {"33-9=24", "33+24=57", "$1200/4=$300"}
    assert equations("There are 17 girls x 2 boys/girl = 34 boys.") == {"17x2=34"}
    train = (Sample("", "1 + 1 = 2\n#### 2"), Sample("", "2*3 = 6\n#### 6"))
    test = (Sample("", "2 * 3 = 6, 1+1 = 2\n#### 2"), Sample("", "1 + 1 = 2 and 2 + 2 = 4\n#### 4"))
    assert seen_steps(Task("sums", train, test)).tolist() == [True, False]


def test_no_number_of_the_new_ones_was_in_training() -> None:
    design = DESIGNS["new-numbers"]
    test = splits(design, load_recipe(design.recipe))["test"]
    assert len({numbers(sample.prompt) for sample in test.test}) == len(test.test)
    assert not seen_numbers(test).any()
    short = splits(DESIGNS["short"], load_recipe(DESIGNS["short"].recipe))
    assert seen_numbers(short["test"]).mean() > 0.8


def test_zeros_are_held_against_a_dense_model_trained_for_as_long() -> None:
    dense, sparse = right(0.8, 2, 1000), right(0.7, 3, 1000, seed=1)
    teacher = dense[:1]

    def row(kind: str, pattern: str | None, answers: np.ndarray, seed: int | None) -> dict[str, object]:
        found = {"right": int(answers.sum()), "samples": 1000, "answers": packed(answers), "answer_perplexity": 1.1}
        about = {"kind": kind, "encoding": "int8", "pattern": pattern, "seed": seed}
        return {**{key: value for key, value in about.items() if value is not None}, **found}

    rows = [row("teacher", None, teacher[0], None)]
    rows += [row("tuned", "unstructured", answers, seed) for seed, answers in enumerate(sparse)]
    rows += [row("tuned", "dense", answers, seed) for seed, answers in enumerate(dense)]
    found = new_numbers.difference({"rows": rows}, new_numbers.ANYWHERE, new_numbers.CONTROL)
    assert found == pytest.approx([100 * value for value in paired_bootstrap(sparse[:2], dense)])
    teachers = new_numbers.difference({"rows": rows}, new_numbers.TEACHER, new_numbers.CONTROL)
    assert teachers == pytest.approx([100 * value for value in paired_bootstrap(teacher.repeat(2, axis=0), dense)])
    against, converged = new_numbers.verdicts({"rows": rows}).splitlines()[2:]  # neither 4:16 nor int4 yet
    assert against.endswith("2 seeds | **missed** |") and converged.endswith("2 seeds | not told |")
    files = {"models": [*FILES, model("cutwork", "int4", 0.0, 0.76, 300)]}
    announced, *beside = new_numbers.verdicts({"rows": rows}, files).splitlines()[4:]
    assert "most accurate" in announced and announced.endswith("| **missed** |")
    assert [line.startswith("| beside it: ") and line.endswith("|  |") for line in beside] == [True, True]
    assert "| int8, 75% zeros anywhere, trained on | " in new_numbers.table({"rows": rows})


def test_squarehead_is_held_against_cross_entropy_for_the_same_time() -> None:
    ce, both = right(0.4, 2, 1000), right(0.5, 1, 1000, seed=1)

    def row(loss: str, steps: int, answers: np.ndarray, seed: int) -> dict[str, object]:
        found = {"right": int(answers.sum()), "samples": 1000, "answers": packed(answers), "answer_perplexity": 1.1}
        return {"loss": loss, "steps": steps, "encoding": "int8", "seed": seed, **found}

    rows = [row("CE", new_losses.STEPS, answers, seed) for seed, answers in enumerate(ce)]
    rows.append(row("CE+SquareHead", new_losses.SAME_TIME, both[0], 1))
    (verdict,) = new_losses.verdicts({"rows": rows}).splitlines()[2:]  # as many steps are not there yet
    change = 100 * float(both[0].mean() - ce[1].mean())
    assert f"{change:+.1f} [" in verdict and verdict.endswith("| met |")
    first, second = new_losses.table({"rows": rows}).splitlines()[2:]
    assert first.startswith(f"| CE | {new_losses.STEPS} | int8 |") and f"| {change:+.1f} [" in second


def test_variants_of_squarehead_have_the_same_time_and_one_is_chosen_on_validation() -> None:
    slower = feature_loss.SLOWER
    for name, phases in feature_loss.VARIANTS.items():
        time = sum(phase.steps * (slower if phase.losses.squarehead else 1) for phase in phases)
        fewer = name == feature_loss.FEWER  # steps, not time
        assert time == pytest.approx(
            feature_loss.VARIANTS["CE+SquareHead"][0].steps if fewer else feature_loss.STEPS, abs=1
        )

    def row(variant: str, split: str, answers: np.ndarray, seed: int) -> dict[str, object]:
        found = {"right": int(answers.sum()), "samples": len(answers), "answers": packed(answers)}
        return {"variant": variant, "seed": seed, "split": split, **found}

    ce, both, then = (right(share, 1, 300, seed)[0] for seed, share in enumerate((0.5, 0.4, 0.6)))
    later = "CE+SquareHead, then CE"
    rows = [row(n, "validation", a, 0) for n, a in (("CE", ce), ("CE+SquareHead", both), (later, then))]
    assert feature_loss.best([*rows, row(feature_loss.FEWER, "validation", np.ones(300, dtype=bool), 0)]) == later
    rows[2] |= {"longer": [40, 3], "longest": 108.9}
    fewer = row(feature_loss.FEWER, "validation", then, 0)
    first, second, third, last = feature_loss.choices({"rows": [*rows, fewer]}).splitlines()[2:]
    assert third.startswith(
        f"| {later} | 40 + 52 | 40 + 3 | 108.9 | {then.mean():.1%} | 300 | {100 * (then.mean() - ce.mean()):+.1f} ["
    )
    assert f"| {100 * (both.mean() - ce.mean()):+.1f} [" in second  # in the same time, and in as many steps
    assert f"| {100 * (both.mean() - then.mean()):+.1f} [" in second and third.endswith("| – |")
    assert first.endswith("| – | – |") and last.endswith("| – | – |")
    rows += [row("CE", "test", ce, 0), row("CE", "test", ce, 1), row(later, "test", then, 1)]
    plain, ours = feature_loss.table({"rows": rows}).splitlines()[2:]
    assert plain.count("/") == 1 and ours.endswith("| met |  |  |")
    assert f"{100 * (then.mean() - ce.mean()):+.1f} [" in ours
    rows.append(row(feature_loss.FEWER, "test", then, 1))  # in as many steps nothing is gained
    _, ours, steps = feature_loss.table({"rows": rows}).splitlines()[2:]
    assert ours.endswith("] | **missed** |") and "| met |" in ours and steps.endswith("|  |  |  |  |")


def test_a_step_with_squarehead_is_told_by_the_round() -> None:
    seconds = {"CE": (2.0, 2.5, 2.0), "CE+SquareHead": (2.8, 3.0, 2.4)}
    rows = [{"loss": n, "round": i, "seconds": x} for n, each in seconds.items() for i, x in enumerate(each)]
    assert step_times.ratios({"rows": rows[::-1]}) == pytest.approx([1.4, 1.2, 1.2])
    assert step_times.table({"rows": rows}).splitlines()[2:] == [
        "| CE | 2.00 / 2.50 / 2.00 | 2.00 |",
        "| CE+SquareHead | 2.80 / 3.00 / 2.40 | 2.80 |",
        "| ratio | 1.40 / 1.20 / 1.20 | 1.20 |",
    ]


def test_a_rate_is_looked_for_upwards_and_else_downwards() -> None:
    def best(right: dict[float, int]) -> tuple[float | None, list[float]]:
        asked: list[float] = []

        def of(rate: float) -> int | None:
            asked.append(rate)
            return right.get(rate)

        return own_rates.climb(of, (1, 2, 4, 8, 16), 4), asked

    assert best({4: 5, 8: 6, 16: 7}) == (16, [4, 8, 16])
    assert best({4: 5, 8: 6, 16: 6}) == (8, [4, 8, 16])
    assert best({4: 5, 8: 5, 2: 5}) == (4, [4, 8, 2])
    assert best({4: 5, 8: 1, 2: 6, 1: 9}) == (1, [4, 8, 2, 1])
    assert best({4: 5, 8: 6}) == (None, [4, 8, 16])
    assert best({}) == (None, [4])


def test_each_loss_has_the_same_time_at_every_rate_and_is_held_against_cross_entropy_at_its_own() -> None:
    for name, parts in own_rates.OwnRates.variants.items():
        time = sum(part.steps * (feature_loss.SLOWER if part.losses.squarehead else 1) for part in parts)
        assert time == pytest.approx(feature_loss.STEPS, abs=1)
        assert {part.rate for part in parts} == {own_rates.PARTS[name][1]}
    known = own_rates.OwnRates.variants
    for name in (feature_loss.CE, feature_loss.NOT_CLIPPED):  # whose models are not made again
        assert known[own_rates.variant(name, feature_loss.RATE)] == feature_loss.VARIANTS[name]

    def row(kind: str, rate: float, split: str, answers: np.ndarray, seed: int = 0) -> dict[str, object]:
        found = {"right": int(answers.sum()), "samples": len(answers), "answers": packed(answers)}
        return {"variant": own_rates.variant(kind, rate), "seed": seed, "split": split, **found}

    ce, then = right(0.5, 2, 600), right(0.6, 1, 600, seed=1)[0]
    asked = [row(own_rates.CE, 4e-4, "validation", ce[0]), row(own_rates.CE, 8e-4, "validation", ce[1])]
    asked.append(row(own_rates.THEN, 8e-4, "validation", then))
    header, _, plain, later = own_rates.choices({"rows": asked}).splitlines()
    assert header == "| loss | 0.0004 | 0.0008 | of |"
    assert plain == f"| CE | {ce[0].mean():.1%} | {ce[1].mean():.1%} | 600 |"
    assert later == f"| {own_rates.THEN} | – | {then.mean():.1%} | 600 |"
    rows = [row(own_rates.CE, 4e-4, "test", answers, seed) for seed, answers in enumerate(ce)]
    rows.append(row(own_rates.THEN, 8e-4, "test", then, 1))
    plain, later = own_rates.table({"rows": asked + rows}).splitlines()[2:]
    assert plain.startswith("| CE | 0.0004 |") and plain.endswith("|  |  |")
    assert later.startswith(f"| {own_rates.THEN} | 0.0008 |")
    assert f"| {100 * (then.mean() - ce[1].mean()):+.1f} [" in later and later.endswith("| met |")


def test_patterns_are_held_against_zeros_anywhere_by_the_seeds_that_both_have() -> None:
    free, four = right(0.7, 3, 600), right(0.6, 2, 600, seed=1)

    def row(pattern: str, answers: np.ndarray, seed: int) -> dict[str, object]:
        found = {"right": int(answers.sum()), "samples": len(answers), "answers": packed(answers)}
        return {"variant": feature_loss.NOT_CLIPPED, "pattern": pattern, "seed": seed, "split": "test", **found}

    rows = [row("4:16", answers, seed) for seed, answers in enumerate(four)]
    (alone,) = tuned_patterns.table({"rows": rows}).splitlines()[2:]
    assert alone.endswith("|  |  |")
    rows += [row(tuned_patterns.FREE, answers, seed) for seed, answers in enumerate(free)]
    first, second = tuned_patterns.table({"rows": rows}).splitlines()[2:]
    change = 100 * float(np.mean(np.stack(four)) - np.mean(np.stack(free[:2])))
    assert f"| {change:+.1f} [" in first and first.endswith("| **missed** |") and second.endswith("|  |  |")


def test_levels_are_held_against_dense_and_against_zeros_anywhere() -> None:
    dense, free, eight = right(0.72, 3, 600), right(0.7, 3, 600, seed=1), right(0.5, 2, 600, seed=2)

    def row(kind: str, answers: np.ndarray, seed: int) -> dict[str, object]:
        found = {"right": int(answers.sum()), "samples": len(answers), "answers": packed(answers)}
        return {"variant": feature_loss.NOT_CLIPPED, "pattern": kind, "seed": seed, "split": "test", **found}

    made = {levels.HALVES[0]: eight, levels.DENSE: dense, levels.HALVES[1]: free}
    rows = [row(kind, answers, seed) for kind, of in made.items() for seed, answers in enumerate(of)]
    first, second, third = levels.table({"rows": rows}).splitlines()[2:]
    change = 100 * float(np.mean(np.stack(eight)) - np.mean(np.stack(free[:2])))
    assert first.startswith("| 50% 8:16 |") and f"| {change:+.1f} [" in first
    assert second.startswith("| dense, trained alike |") and second.endswith("|  |  |")
    assert third.startswith("| 50% anywhere |") and third.endswith("] |  |")
    [_, lost] = levels.verdicts({"rows": rows}).splitlines()[2:]
    assert "50% 8:16 at most 2 points below 50% anywhere" in lost and lost.endswith(" 2 seeds | **missed** |")
    assert len(set(levels.KINDS)) == 9


def test_weights_come_to_have_a_pattern_while_they_learn() -> None:
    torch.manual_seed(0)
    model, pattern, steps = llama().train(), KeepNOfM(4, 16), 40
    search = mask_search.MaskSearch(pattern, steps, most=0.5)
    search.preparation().apply(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0)
    tokens = torch.randint(2, 60, (4, 12))
    losses = []
    for _ in range(steps):
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        model.eval()
        model(input_ids=tokens)  # of no step
        model.train()
    assert losses[-1] < losses[0]
    for name, linear in block_linears(model).items():
        weight = linear.get_parameter("weight").detach()
        kept = pattern.keep(weight.abs(), torch.ones_like(weight, dtype=torch.bool))
        rest = float((weight * ~kept).square().sum() / weight.square().sum())
        assert rest < 0.05, name
    other = mask_search.MaskSearch(pattern, steps, most=0.4)
    assert other.preparation().key != search.preparation().key


def test_methods_beyond_squarehead_have_its_time_and_are_held_against_it() -> None:
    for variant, phases in beyond.Beyond.variants.items():
        time = sum(phase.steps * feature_loss.SLOWER for phase in phases)
        answering = beyond.ANSWERING if variant in (beyond.GIVEN, beyond.ON_POLICY) else 0
        assert time + answering == pytest.approx(feature_loss.STEPS, abs=2)
    plain, ours = right(0.7, 2, 300), right(0.9, 1, 300, seed=1)[0]

    def row(variant: str, answers: np.ndarray, seed: int) -> dict[str, object]:
        found = {"right": int(answers.sum()), "samples": len(answers), "answers": packed(answers)}
        return {"variant": variant, "seed": seed, "split": "validation", **found}

    rows = [row(feature_loss.NOT_CLIPPED, answers, seed) for seed, answers in enumerate(plain)]
    rows.append(row(beyond.SEARCHED, ours, 1))
    first, second = beyond.table({"rows": rows}).splitlines()[2:]
    assert first.endswith("|  |  |") and second.endswith("| ahead |")
    assert f"| {100 * (ours.mean() - plain[1].mean()):+.1f} [" in second
    assert [beyond.verdict(found) for found in ((2, -1, 5), (-4, -6, -2))] == ["not told", "behind"]


def test_one_shot_patterns_are_held_against_zeros_anywhere_of_the_same_level_and_pruner() -> None:
    free, four = right(0.7, 1, 300)[0], right(0.6, 1, 300, seed=1)[0]

    def row(level: float, method: str, pattern: str, answers: np.ndarray) -> dict[str, object]:
        found = {"right": int(answers.sum()), "samples": len(answers), "answers": packed(answers)}
        return {"level": level, "method": method, "pattern": pattern, "answer_perplexity": 1.05, **found}

    rows = [row(0.75, "alps", "unstructured", free), row(0.75, "alps", "4:16", four), row(0.5, "alps", "8:16", four)]
    first, second, third = one_shot.table({"rows": rows}).splitlines()[2:]
    assert first.startswith(f"| 75% | alps | unstructured | {free.mean():.1%} [") and first.endswith("|  |  | 1.050 |")
    assert f"| {100 * (four.mean() - free.mean()):+.1f} [" in second and f"| {mcnemar(four, free):.2g} |" in second
    assert third.startswith("| 50% | alps | 8:16 |") and third.endswith("|  |  | 1.050 |")
    for level, names in one_shot.PATTERNS.items():
        assert {pattern_of(name, level).sparsity for name in names} == {level}


def test_gsm8k_is_told_beside_a_dense_model_trained_for_as_long() -> None:
    names = [wanted.name for wanted in gsm8k.ORDER]
    assert names[:3] == ["75% zeros, anywhere, CE", gsm8k.DENSE, "75% zeros, 4:16, CE"] and len(set(names)) * 2 == len(
        names
    )
    dense, sparse, teacher = right(0.4, 2, 1319), right(0.3, 1, 1319, seed=1), right(0.35, 1, 1319, seed=2)

    def row(model: str, answers: np.ndarray, seed: int | None = None) -> dict[str, object]:
        found = {"model": model, "encoding": "int8", "right": int(answers.sum()), "samples": 1319}
        return {**found, "answers": packed(answers), **({} if seed is None else {"seed": seed})}

    rows = [row(gsm8k.TEACHER, teacher[0]), row(names[0], sparse[0], 0)]
    rows += [row(gsm8k.DENSE, answers, seed) for seed, answers in enumerate(dense)]
    first, ours, control = gsm8k.table({"rows": rows}).splitlines()[2:]
    assert first.startswith("| int8, dense, the teacher |") and first.count(" / ") == 1  # McNemar's p of both seeds
    change = 100 * float(sparse[0].mean() - dense[0].mean())
    assert f"| {change:+.1f} [" in ours and control.endswith("|  |  |")


def test_gsm8k_says_what_was_announced_of_what_has_run() -> None:
    dense, behind, ahead = (np.arange(1319) < count for count in (400, 300, 390))

    def row(model: str, answers: np.ndarray, seed: int | None = 0) -> dict[str, object]:
        found = {"model": model, "encoding": "int8", "right": int(answers.sum()), "samples": 1319}
        return {**found, "answers": packed(answers), **({} if seed is None else {"seed": seed})}

    names = {loss: gsm8k.Wanted(loss, 0.75, "unstructured", 0).name for loss in gsm8k.LOSSES}
    rows = [row(gsm8k.TEACHER, behind, None), row(gsm8k.DENSE, dense), row(names["CE"], behind)]
    near, converged = gsm8k.verdicts({"rows": rows}).splitlines()[2:]
    assert near.startswith("| 75% zeros, anywhere, CE: at most 5 points below dense") and near.endswith("**missed** |")
    assert converged.startswith("| the dense teacher has converged") and "-7.6 [" in converged
    first, *_ = gsm8k.verdicts({"rows": [*rows, row(names["CE+SquareHead"], ahead)]}).splitlines()[2:]
    assert "2 points ahead of CE" in first and "+6.8 [" in first and first.endswith("1 seed | met |")
