"""Each task gives the samples asked for, the splits share no text, and bad settings get one clear sentence."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cutwork.errors import CutworkError
from cutwork.recipe import TaskSettings
from cutwork.tasks.gsm_symbolic import numbers
from cutwork.tasks.load import load_task
from cutwork.tasks.task import LABELS, Sample, Task, final_number, is_right
from cutwork.tasks.translation import translation_quality


def settings(name: str, samples: tuple[int, int] = (30, 10), seed: int = 0, **options: object) -> TaskSettings:
    return TaskSettings(name=name, train_samples=samples[0], test_samples=samples[1], seed=seed, options=options)


def write_jsonl(path: Path, records: list[dict]) -> Path:
    path.write_text("\n".join(map(json.dumps, records)))
    return path


@pytest.mark.parametrize("options", [{}, {"templates": [43, 10, 58]}])
def test_gsm_symbolic_splits_share_no_text(options: dict) -> None:
    task = load_task(settings("gsm_symbolic", (400, 100), **options))
    prompts = [sample.prompt for sample in task.train + task.test]
    assert len(task.train) == 400
    assert len(task.test) == 100
    assert len(set(prompts)) == len(prompts)
    assert all(final_number(sample.answer) is not None for sample in task.train)


def test_gsm_symbolic_is_a_function_of_its_seed() -> None:
    options = {"templates": [43, 10]}
    task = load_task(settings("gsm_symbolic", **options))
    assert task == load_task(settings("gsm_symbolic", **options))
    assert task.test == load_task(settings("gsm_symbolic", (60, 10), **options)).test
    assert task.test != load_task(settings("gsm_symbolic", seed=1, **options)).test


def test_held_out_numbers_are_in_no_training_question_of_any_seed() -> None:
    options = {"templates": [43, 72, 10], "held_out_numbers": 0.2}
    tasks = [load_task(settings("gsm_symbolic", (300, 60), seed=seed, **options)) for seed in (0, 1)]
    tested = {numbers(sample.prompt) for task in tasks for sample in task.test}
    assert all(len({numbers(sample.prompt) for sample in task.test}) == 60 for task in tasks)
    assert not tested & {numbers(sample.prompt) for task in tasks for sample in task.train}
    plain = load_task(settings("gsm_symbolic", (300, 60), templates=[43, 72, 10]))
    assert {numbers(sample.prompt) for sample in plain.train} & {numbers(sample.prompt) for sample in plain.test}


def test_numbers_are_taken_as_they_are_written() -> None:
    assert numbers("Of 1,200 eggs, 12.5% break; 3, no 4.") == ("1,200", "12.5%", "3", "4")


def test_gsm_symbolic_says_when_a_template_is_used_up() -> None:
    with pytest.raises(CutworkError, match=r"give only \d+ different problems"):
        load_task(settings("gsm_symbolic", (5000, 10), templates=[53]))


def test_a_used_up_template_leaves_its_share_to_the_others() -> None:
    task = load_task(settings("gsm_symbolic", (600, 10), templates=[53, 43]))
    dice = sum("die" in sample.prompt for sample in task.train)
    assert 0 < dice < 300 < len(task.train) - dice


def test_jsonl_reads_keys_by_name_and_keeps_test_out_of_train(tmp_path: Path) -> None:
    rows = [{"q": f"question {i}", "a": f"answer {i}"} for i in range(6)]
    train, test = write_jsonl(tmp_path / "train.jsonl", rows), write_jsonl(tmp_path / "test.jsonl", rows[:2])
    task = load_task(settings("jsonl", train=str(train), test=str(test), prompt="q", answer="a"))
    assert [sample.prompt for sample in task.test] == ["question 0", "question 1"]
    assert [sample.answer for sample in task.train] == [f"answer {i}" for i in range(2, 6)]


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", "prompt,answer\np,a\n"), ("a.jsonl", '{"prompt": "p", "answer": "a"}\n')]
)
def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8-sig")
    assert load_task(TaskSettings(name=str(path))).test == (Sample("p", "a"),)


def test_a_jsonl_file_is_a_task_by_its_name(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "mine.jsonl", [{"prompt": "p", "answer": "a"}])
    task = load_task(TaskSettings(name=str(path)))
    assert (len(task.train), len(task.test)) == (0, 1)


def test_jsonl_names_the_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "p", "answer": "a"}\n{"prompt": "p"}\n')
    with pytest.raises(CutworkError, match="row 2: expected a text 'answer'; there are prompt"):
        load_task(settings("jsonl", test=str(path)))


def test_rows_of_source_and_target_are_a_translation(tmp_path: Path) -> None:
    pairs = [{"source": f"{i} cats", "target": f"{i} Katzen"} for i in range(4)]
    train, test = write_jsonl(tmp_path / "train.jsonl", pairs), write_jsonl(tmp_path / "test.jsonl", pairs[:2])
    task = load_task(settings("translation", train=str(train), test=str(test), prefix="to German: "))
    assert task.metric == "translation"
    assert task.test[1] == Sample("to German: 1 cats", "1 Katzen")
    assert [sample.answer for sample in task.train] == ["2 Katzen", "3 Katzen"]
    assert load_task(TaskSettings(name=str(test))).test[0] == Sample("0 cats", "0 Katzen")
    languages = {"source_language": "eng_Latn", "target_language": "deu_Latn"}
    for told in (settings("translation", test=str(test), **languages), settings(str(test), **languages)):
        sample = load_task(told).test[0]
        assert sample.languages == ("eng_Latn", "deu_Latn") and sample.contents()[2:] == ["eng_Latn", "deu_Latn"]
    with pytest.raises(CutworkError, match="both source_language and target_language"):
        load_task(settings("translation", test=str(test), source_language="eng_Latn"))
    questions = write_jsonl(tmp_path / "questions.jsonl", [{"prompt": "p", "answer": "a"}])
    assert load_task(TaskSettings(name=str(questions))).metric == "exact"


def test_what_is_only_asked_reads_nothing_to_train_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = {"test": [{"problem": "1 + 1", "answer": "2"}]}
    monkeypatch.setattr("cutwork.tasks.table.hub", lambda name, split, config=None: splits[split])
    of_hub = settings("owner/math", prompt="problem", answer="answer").model_copy(update={"train_samples": 0})
    assert load_task(of_hub) == Task("owner/math", (), (Sample("1 + 1", "2"),))
    for task in ("gsm8k", "wmt14-en-de", "common_voice", "speech"):
        (tmp_path / "test.jsonl").write_text('{"question": "1 + 1", "answer": "#### 2"}')
        (tmp_path / "test.tsv").write_text("path\tsentence\nno.wav\t\n")
        (tmp_path / "test.en").write_text("yes")
        (tmp_path / "test.de").write_text("ja")
        (tmp_path / "test").mkdir(exist_ok=True)
        (tmp_path / "test" / "metadata.jsonl").write_text("")
        (tmp_path / "train").mkdir(exist_ok=True)  # without a listing
        asked = settings(task, directory=str(tmp_path)).model_copy(update={"train_samples": 0})
        assert load_task(asked).train == ()


def test_what_the_hub_lacks_is_told_as_it_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def load_dataset(*_: Any, **__: Any) -> None:
        raise ValueError("Unknown split \"train\". Should be one of ['test'].")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(CutworkError, match=r"Should be one of \['test'\]\); check its name"):
        load_task(settings("owner/math"))


def test_columns_beside_what_is_read_do_not_make_a_translation(tmp_path: Path) -> None:
    file, other = tmp_path / "rows.jsonl", {"source": "gsm8k", "target": "1"}
    turns = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    for row in ({"question": "1 + 1?", "answer": "2"}, {"messages": turns}, {"instruction": "1 + 1?", "output": "2"}):
        file.write_text(json.dumps(row | other) + "\n")
        task = load_task(settings(str(file)))
        assert (task.metric, task.test[0].prompt, task.test[0].answer) == ("exact", "1 + 1?", "2")


def test_pairs_to_train_on_do_not_make_it_less_of_a_translation(tmp_path: Path) -> None:
    files = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    for i, file in enumerate(files):
        file.write_text(json.dumps({"source": f"yes {i}", "target": f"ja {i}"}) + "\n")
    assert load_task(settings(str(files[1]), train=str(files[0]))).metric == "translation"


def test_translation_quality_is_sacrebleus() -> None:
    pytest.importorskip("sacrebleu")
    reference = ["Der Zug nach Berlin fährt um 10:15 Uhr ab."]
    assert translation_quality(reference, reference) == pytest.approx({"bleu": 100.0, "chrf": 100.0})
    # One of twelve tokens (10 : 15 are three) is wrong, the fourth: one word, two pairs, three triples, four fours.
    scores = translation_quality(["Der Zug nach Wien fährt um 10:15 Uhr ab."], reference)
    assert scores["bleu"] == pytest.approx(100 * (11 / 12 * 9 / 11 * 7 / 10 * 5 / 9) ** 0.25, abs=1e-6)


def test_bleu_cuts_words_as_their_language_has_them() -> None:
    pytest.importorskip("sacrebleu")
    chinese = translation_quality(["我喜欢在公园里散步和看书"], ["我喜欢在公园里散步并且看书"])
    assert [*chinese] == ["bleu_zh", "chrf"] and 50 < chinese["bleu_zh"] < 100
    assert [*translation_quality(["12:30"], ["12:30"])] == ["bleu", "chrf"]
    for text, name in (
        ("今日は良い天気です", "bleu_ja"),
        ("コーヒー", "bleu_ja"),
        ("안녕하세요", "bleu_ko"),
        ("สวัสดีครับ", ""),
    ):
        scores = translation_quality([text], [text])
        assert {*scores} <= {name, "chrf"} and scores["chrf"] == 100  # with MeCab or without
        assert {*scores} <= {*LABELS}


def test_gsm8k_drops_the_calculator_annotations(tmp_path: Path) -> None:
    row = {"question": "How many?", "answer": "48/2 = <<48/2=24>>24 clips.\n#### 24"}
    for split in ("train", "test"):
        write_jsonl(tmp_path / f"{split}.jsonl", [row])
    task = load_task(settings("gsm8k", directory=str(tmp_path)))
    assert task.test[0].answer == "48/2 = 24 clips.\n#### 24"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            settings("gsm9k"),
            "no task 'gsm9k'; there are gsm_symbolic, gsm8k, wmt14-en-de, common_voice, speech, translation, text, ",
        ),
        (settings("gsm_symbolic", template=[1]), "no option 'template'"),
        (settings("gsm_symbolic", templates=[1, 100]), "no template 100"),
        (settings("gsm_symbolic", templates=[1, 1]), "list of different numbers"),
        (settings("gsm_symbolic", templates=[]), "list of different numbers"),
        (settings("gsm_symbolic", difficulty="hard"), "difficulty: input should be a valid number"),
        (settings("gsm_symbolic", held_out_numbers=1), "held_out_numbers must be a share from 0 to 0.9, not 1"),
        (settings("jsonl"), "needs the option 'test'"),
        (settings("gsm8k", directory="nowhere"), "cannot read task data"),
        (settings("wmt14-en-de", directory="nowhere"), "cannot read the sentences of train in nowhere"),
        (settings("common_voice"), "needs the option 'directory'"),
        (settings("common_voice", directory="nowhere"), "nowhere has no train.tsv"),
        (settings("text", test="nowhere.txt"), "cannot read nowhere.txt"),
        (settings("nowhere.csv"), "cannot read task data from nowhere.csv"),
    ],
)
def test_bad_settings_get_one_sentence(bad: TaskSettings, message: str) -> None:
    with pytest.raises(CutworkError, match=message.replace("[", r"\[")) as caught:
        load_task(bad)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("so 3 + 4 = 7\n#### 7", True),
        ("#### 7.0", True),
        ("#### $7", True),
        ("#### 7 apples", True),
        ("#### 70", False),
        ("#### -7", False),
        ("the answer is 7", False),
        ("#### 1\n#### 7", False),
        ("#### 7\n\nQuestion: 3 + 4?\nAnswer: #### 1", True),
        ("", False),
    ],
)
def test_the_number_after_the_marks_decides(reply: str, right: bool) -> None:
    assert is_right(reply, "work\n#### 7") is right


@pytest.mark.parametrize(
    ("reply", "answer", "right", "by_lm_eval"),
    [
        ("#### 18", "18", True, True),
        ("#### 1,234", "1234", True, True),
        ("#### 18.", "18", True, True),
        ("#### \u22125", "5", False, False),
        ("#### \u22125", "-5", True, False),
        ("#### \u20135", "-5", True, False),
        ("#### $-5", "-5", True, False),
        ("#### $18", "18", True, False),
        ("####18", "18", True, False),
        ("#### 18.0", "18", True, False),
        ("#### 5/hour, so\n#### 18", "18", False, False),
        ("#### 5/6, so\n#### 18", "18", False, False),
        ("#### none, so\n#### 18", "18", False, True),
        ("#### 2^3", "2", False, True),
        ("#### 1,8", "18", False, True),
        ("#### 1234,567", "1234567", False, True),
        ("#### 3 000", "3", True, True),
    ],
)
def test_replies_are_read_nearly_as_by_lm_eval(reply: str, answer: str, right: bool, by_lm_eval: bool) -> None:
    assert is_right(reply, f"work\n#### {answer}") is right
    # The filter and the metric of lm-eval's gsm8k, "strict-match".
    found = re.search(r"#### (\-?[0-9\.\,]+)", reply)
    assert (found is not None and re.sub(r",|\.$", "", found[1]) == answer) is by_lm_eval


def test_numbers_with_separators_and_signs() -> None:
    assert final_number("#### 1,234.5") == 1234.5
    assert final_number("#### -3") == -3
    assert [final_number(f"#### {sign}12.50") for sign in "$£€¥₹=:`*≈"] == [12.5] * 10
    assert is_right("So 6 * 2 = 12. #### £12.50", "#### £12.5") and final_number("#### A5") is None
    assert final_number("#### .5") == 0.5
    assert final_number("#### -$5") == -5
    assert final_number("#### none") is final_number("#### 5/6") is final_number("#### 12:30") is None


def test_without_marks_the_text_decides() -> None:
    assert is_right(" Paris\n", "Paris")
    assert not is_right("paris", "Paris")
