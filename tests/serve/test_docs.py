"""What docs/architecture.md and the package say of the files is true."""

import re
from pathlib import Path

import cutwork
import cutwork.serve
from cutwork.serve.limits import Limits

ROOT = Path(cutwork.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"


def test_the_way_of_a_request_names_files_and_names_in_them():
    page = PAGE.read_text(encoding="utf-8")
    way = page[page.index("## The way of a chat request") : page.index("## The way of `make demo`")]
    steps = re.split(r"^\d+\. ", way, flags=re.M)[1:]
    assert len(steps) == 13
    named = re.findall(r"`((?:serve|engine)/[\w/]+\.py)`((?: `[\w.]+`,?)*)", "\n".join(steps))
    assert len(named) >= 12
    for file, names in named:
        source = (ROOT / file).read_text(encoding="utf-8")
        for name in re.findall(r"\w+", names):
            assert re.search(rf"\b(?:class|def) {name}\b", source), f"{file} has no {name}"


def test_the_package_lists_all_its_files():
    serve = ROOT / "serve"
    files = {str(file.relative_to(serve)) for file in serve.rglob("*.py") if file.name != "__init__.py"}
    assert set(re.findall(r"^(\S+\.py) ", cutwork.serve.__doc__, re.M)) == files


def test_the_page_of_serving_names_the_limits_of_a_request():
    page = (PAGE.parent / "serving.md").read_text(encoding="utf-8")
    start = page.index("| in one request at most |")
    rows = re.findall(r"^\| (.+) \| (.+) \|$", page[start : page.index("\n\n", start)], re.M)
    said = [int(number.replace(",", "")) for row in rows for number in re.findall(r"\d[\d,]*", row[1])]
    limits, mebibyte = Limits(), 1 << 20
    assert limits.audio_seconds == 3600  # "an hour"
    assert said == [
        *(limits.body_bytes // mebibyte, limits.audio_bytes // mebibyte),
        *(limits.prompts, limits.text_length, limits.inputs),
        *(limits.prompt_length, limits.token_ids),
        *(limits.choices, limits.beams, limits.max_tokens),
        *(limits.messages, limits.tools, limits.stop_strings, limits.stop_length, limits.logit_biases),
        *(limits.schema_bytes >> 10, limits.schema_depth, limits.depth, limits.keys),
        *(limits.values, limits.echo_tokens),
    ]
