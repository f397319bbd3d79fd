"""Local data in every format, and what a sample of it becomes."""

import csv
import json
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from cutwork.errors import CutworkError
from cutwork.recipe import TaskSettings
from cutwork.tasks.load import load_task
from cutwork.tasks.perplexity import read_text, task_text
from cutwork.tasks.table import read_samples
from cutwork.tasks.task import Sample, Task
from cutwork.tasks.text import pieces
from cutwork.torch_models.data import examples

ROWS = [{"en": f"thing {i}", "de": f"Ding, {i}", "n": i} for i in range(5)]


def load(name: str, **options: object) -> Task:
    return load_task(TaskSettings(name=name, train_samples=10, test_samples=2, options=options))


def write(path: Path, rows: list[dict]) -> str:
    match path.suffix:
        case ".jsonl":
            path.write_text("\n".join(map(json.dumps, rows)))
        case ".json":
            path.write_text(json.dumps(rows, indent=1), encoding="utf-8-sig")
        case ".csv":
            path.write_text("en,de,n\n" + "\n".join(f'{r["en"]},"{r["de"]}",{r["n"]}' for r in rows))
        case ".tsv":
            path.write_text("en\tde\tn\n" + "\n".join(f"{r['en']}\t{r['de']}\t{r['n']}" for r in rows))
        case ".parquet":
            pyarrow = pytest.importorskip("pyarrow")
            from pyarrow import parquet

            parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_rows_of_any_format_fill_templates(tmp_path: Path, suffix: str) -> None:
    train = write(tmp_path / f"train{suffix}", ROWS)
    test = write(tmp_path / f"test{suffix}", ROWS[:3])
    task = load(test, train=train, prompt="Translate {n}: {en}", answer="de")
    assert task.test == tuple(Sample(f"Translate {i}: thing {i}", f"Ding, {i}") for i in range(2))
    assert [sample.answer for sample in task.train] == ["Ding, 2", "Ding, 3", "Ding, 4"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "{", "line 1 is not JSON"),
        ("a.jsonl", "[]", "line 1: expected a JSON object"),
        ("a.jsonl", "", "holds no samples"),
        ("a.csv", "prompt,answer\nx\n", "row 1: expected a text 'answer'"),
        ("a.csv", 'prompt,answer\nq,"1, 2"\nq2,3, because\n', "row 2 has more fields than there are columns"),
        ("a.tsv", "prompt\tanswer\nq\ta\tb\n", "row 1 has more fields"),
        ("a.csv", "prompt,answer,answer\nq,a,b\n", "two columns 'answer'"),
        ("a.parquet", "no parquet", "cannot read task data"),
        ("a.json", "[]", "holds no samples"),
        ("a.json", '{"prompt": "q"}\n{"prompt": "r"}', r"is not JSON: .*; if each of its lines is, call it \.jsonl"),
        ("a.json", '{"data": []}', "expected an array of JSON objects"),
        ("a.json", "[3]", "expected an array of JSON objects"),
        ("a.json", '[{"prompt": ' + "[" * 100_000, "is not JSON: maximum recursion"),
        ("a.json", f'[{{"prompt": {"9" * 5000}}}]', "is not JSON: Exceeds the limit"),
        ("a.txt", "[]", r"a\.txt is a file, but of files only \.jsonl, \.json, \.csv"),
        ("gone.json", None, "cannot read task data from .*gone.json: no such file or directory$"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(CutworkError, match=message) as caught:
        load(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_name_ends_in_any_case_and_may_be_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "A.JSONL").write_text('{"prompt": "q", "answer": "a"}')
    assert load(str(tmp_path / "A.JSONL")).test == (Sample("q", "a"),)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CutworkError, match=r"cannot read task data from \.jsonl"):
        load(".jsonl")


def test_fields_are_as_long_as_they_like(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"prompt,answer\nq,{'a' * 200_000}\n")
    assert len(load(str(tmp_path / "a.csv")).test[0].answer) == 200_000


def test_samples_that_do_not_suffice_are_counted(tmp_path: Path) -> None:
    name = write(tmp_path / "a.jsonl", [{"prompt": f"{i}?", "answer": "a"} for i in range(5)])
    settings = TaskSettings(name=name, test_samples=200, validation_samples=2, options={"train": name})
    with pytest.raises(CutworkError, match=r"has 0 training samples; 2 for validation .* beside 5 for the test; ask"):
        load_task(settings)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_rows_that_are_not_asked_for_are_not_read(tmp_path: Path, suffix: str) -> None:
    path = Path(write(tmp_path / f"a{suffix}", ROWS * 1000))
    damaged = path.read_bytes()
    middle = len(damaged) // 2
    if suffix == ".parquet":  # the pages of its first rows alone are read
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(ROWS * 1000), path, row_group_size=2000, use_dictionary=False)
        damaged = path.read_bytes()
        middle = parquet.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    path.write_bytes(damaged[:middle] + b"\xff" * 16 + damaged[middle + 16 :])
    task = load(str(path), train=str(path), prompt="en", answer="de")
    assert (len(task.test), len(task.train)) == (2, 10)
    with pytest.raises(CutworkError, match=r"cannot read task data|is not JSON"):
        load_task(
            TaskSettings(
                name=str(path), train_samples=5000, options={"prompt": "en", "answer": "de", "train": str(path)}
            )
        )


def test_tsv_is_read_with_the_quotes_of_its_writer(tmp_path: Path) -> None:
    pandas, path = pytest.importorskip("pandas"), tmp_path / "a.tsv"
    texts = ['He said "hi"', '"hi"', "two\nlines", "a\ttab", 'all "of\nthese"\t', "plain", 'an "inch']
    rows = [{"prompt": text, "answer": f"{i}\u2028"} for i, text in enumerate(texts)]
    for some in (rows, rows[:1], rows[1:2], rows[2:3], rows[3:4], rows[4:5], rows[5:6]):
        pandas.DataFrame(some).to_csv(path, sep="\t", index=False)
        assert [sample.prompt for sample in read_samples(str(path))] == [row["prompt"] for row in some]
    for quoting in (csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC):
        pandas.DataFrame(rows[5:6]).to_csv(path, sep="\t", index=False, quoting=quoting)
        assert read_samples(str(path))[0].prompt == "plain"
    for text in ('"hi', 'hi"', '"Hi," she said, "bye"', '"hi"', 'an "inch'):  # who never quotes, means them
        path.write_text(f"prompt\tanswer\n{text}\ta\nq\t{text}\n")
        assert [(s.prompt, s.answer) for s in read_samples(str(path))] == [(text, "a"), ("q", text)]


def test_a_prompt_of_many_rows_leaves_out_the_tests_answers_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    poems = [{"prompt": "Write a poem.", "answer": f"Poem {i}"} for i in range(50)]
    asked = [{"prompt": "2 + 2?", "answer": f"{i}"} for i in range(5)]  # as few as this may be one answer's
    train = write(tmp_path / "train.jsonl", [*poems, *asked])
    test = write(tmp_path / "test.jsonl", [poems[7], asked[0]])
    task = load_task(TaskSettings(name=test, train_samples=99, options={"train": train}))
    assert sorted(sample.answer for sample in task.train) == sorted(f"Poem {i}" for i in range(50) if i != 7)
    assert f"{train}: 6 rows ask what the test asks and are not trained on" in capsys.readouterr().err
    validated = TaskSettings(name=train, train_samples=45, validation_samples=5, options={"train": train, "test": test})
    task = load_task(validated.model_copy(update={"name": "jsonl"}))
    assert len(task.validation) == 5 and len(task.train) == 49 - 5
    assert not {sample.answer for sample in task.train} & {sample.answer for sample in task.validation}


def test_rows_held_out_of_the_file_that_is_trained_on_are_not_told_as_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"{i}?", "answer": f"{i}"} for i in range(9)]
    for repeated, told in (([], ""), ([rows[0]], "1 rows ask what the test asks")):
        file = write(tmp_path / "rows.jsonl", [*rows, *repeated])
        task = load_task(
            TaskSettings(name="jsonl", train_samples=99, test_samples=3, options={"train": file, "test": file})
        )
        assert len(task.test) == 3 and len(task.train) == 6
        err = capsys.readouterr().err
        assert told in err and bool(told) == bool(err)


def test_wmt14_from_files(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.en").write_text(f"{split} one\n\nthree\n", encoding="utf-8-sig")
        (tmp_path / f"{split}.de").write_text(f"{split} eins\n\ndrei\n")
    task = load("wmt14-en-de", directory=str(tmp_path))
    assert task.train[0] == Sample("translate English to German: train one", "train eins")
    assert [sample.answer for sample in task.test] == ["test eins", "drei"]
    (tmp_path / "test.de").write_text("eins\n")
    with pytest.raises(CutworkError, match=r"test\.en has 3 lines and test\.de 1"):
        load("wmt14-en-de", directory=str(tmp_path))


def test_a_folder_of_recordings(tmp_path: Path) -> None:
    pytest.importorskip("soundfile")
    pytest.importorskip("soxr")
    (tmp_path / "clips").mkdir()
    tone = (np.sin(np.arange(8000) * 0.1) * 20000).astype("<i2")
    with wave.open(str(tmp_path / "clips" / "a.wav"), "wb") as file:
        file.setparams((2, 2, 8000, 0, "NONE", ""))
        file.writeframes(np.repeat(tone, 2).tobytes())
    (tmp_path / "train.tsv").write_text('path\tsentence\na.wav\tein "Ton\n')
    (tmp_path / "test.jsonl").write_text('{"path": "a.wav", "sentence": "ein Ton"}')
    task = load("common_voice", directory=str(tmp_path), language="de")
    [sample] = task.train
    assert (sample.prompt, sample.answer) == ("de", 'ein "Ton')
    assert sample.audio.dtype == np.float32 and sample.audio.shape == (16000,)
    np.testing.assert_allclose(sample.audio[100:-100:2], tone[50:-50] / 32768, atol=0.02)
    (tmp_path / "test.jsonl").write_text('{"path": "b.wav", "sentence": "ein Ton"}')
    with pytest.raises(CutworkError, match=r"test, row 1: there is no recording b\.wav"):
        load("common_voice", directory=str(tmp_path))


def test_parquet_asks_for_what_reads_it_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(CutworkError, match=r"need pyarrow; install it with: pip install pyarrow$"):
        read_samples(str(tmp_path / "rows.parquet"))


def test_pieces_of_the_test_are_not_trained_on(tmp_path: Path) -> None:
    first, more = (" ".join(f"{word}{i}" for i in range(60)) + " " for word in ("one", "two"))
    (tmp_path / "test.txt").write_text(first)
    (tmp_path / "train.txt").write_text(first + more)
    for train in ("test.txt", "train.txt"):
        options = {"train": str(tmp_path / train), "test": str(tmp_path / "test.txt"), "characters": 50}
        task = load_task(TaskSettings(name="text", train_samples=3, test_samples=3, options=options))
        whole = pieces((tmp_path / train).read_text(), 50)
        assert [sample.answer for sample in task.train + task.test] == whole[3:6] + whole[:3]


def test_plain_text_is_learned_whole(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one two three four five " * 20, encoding="utf-8-sig")
    assert read_text(tmp_path / "a.txt").startswith("one")
    file = str(tmp_path / "a.txt")
    options = {"train": file, "test": file, "characters": 100}
    task = load_task(TaskSettings(name="text", train_samples=3, test_samples=2, options=options))
    assert (len(task.train), len(task.test)) == (3, 2)
    assert "".join(pieces("one two three", 8)) == "one two three" and pieces("one two three", 8)[0] == "one two "

    class Letters:
        chat_template = "never used"
        eos_token = "<end>"

        def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
            return {"input_ids": [ord(letter) for letter in text]}

    [example] = examples(Letters(), task.train[:1], 50)
    assert example["input_ids"] == example["labels"] == [ord(letter) for letter in task.train[0].answer[:50]]
    assert task_text(Letters(), task.test) == "\n".join(sample.answer for sample in task.test)
