from benchmarks.evidence import report
from benchmarks.evidence.statistics import packed, paired_bootstrap
from tests.benchmarks.evidence.made import FILES, model, right


def test_a_small_difference_with_a_wide_interval_is_not_told() -> None:
    assert report.at_most_below(2, (-1.0, -1.8, 0.0)) is True
    assert report.at_most_below(2, (-1.0, -3.5, 1.5)) is None
    assert report.at_most_below(2, (-3.0, -5.0, -1.0)) is False


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


def test_a_sparse_file_pays_if_its_interval_is_within_a_point_of_a_4_bit_one() -> None:
    steady = model("cutwork", "int8", 0.75, 0.772, 320)
    files = [*FILES, model("cutwork", "int4", 0.0, 0.76, 300)]
    claims = report.pays({"models": files}, "fastest", "most accurate", "own")
    (_, fast, near), (_, accurate, missed), (_, own, slow) = claims
    assert fast.startswith("cutwork int8, 75% zeros (4:16): -0.5 [") and near is None
    assert fast.endswith(" points, 2 seeds of both, 1.65 times as fast as llama.cpp Q4_0")
    assert (accurate, missed) == ("none is that near to llama.cpp Q4_K_M", False)
    assert own.endswith(" points, 1 seed of both, 1.10 times as fast as cutwork int4") and slow is False
    told = [{**steady, "pattern": "unstructured"}, model("cutwork", "int8", 0.75, 0.70, 700, seed=2), *files[3:]]
    [(_, fast, met)] = report.pays({"models": told}, "fastest")  # the faster one is worse
    assert "(anywhere): -0.3 [-0.7, +0.0] points, 1 seed of both, 1.60 times" in fast and met is True
    of_one_seed = [{**file, "seed": 1} if file["weights"] == "Q4_0" else file for file in FILES]
    [(_, fast, _)] = report.pays({"models": of_one_seed}, "fastest")
    assert "(4:16): +0.0 [+0.0, +0.0] points, 1 seed of both" in fast


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
