"""What would have no effect is refused, before anything takes time."""

from pathlib import Path
from typing import Any

import pytest

from cutwork.cli.serve import _bind
from cutwork.errors import CutworkError
from tests.cli.test_commands import checkpoint, cutwork, packed  # noqa: F401 (fixtures)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("generate", "{}", "hi", "--length-penalty", 2), "--length-penalty is for beam search"),
        (("generate", "{}", "hi", "-n", 5, "--min-new-tokens", 10), "--min-new-tokens 10 is more than"),
        (("eval", "{}", "--text", __file__, "--num-beams", 2), "--num-beams is for --task or --recipe alone"),
        (("eval", "{}", "--text", __file__, "--max-new-tokens", 2), "--max-new-tokens is for --task or --recipe alone"),
        (("explain", "{}", "--after", 5000), "5000 + 1 tokens exceed the context"),
        (("serve", "a={}", "a={}"), "two models are called a"),
        (("serve", "{}", "--host", "999.1.1.1"), "try another --host"),
        (("serve", "{}", "--host", "a..b"), "cannot listen on a..b, which is no host's name; try another --host"),
        (("serve", "{}", "--host", "a" * 64), "which is no host's name; try another --host"),
        (("serve", "{}", "--cors", "example.org"), "--cors example.org is no origin; give scheme and host alone"),
        (("bench", "{}", "-p", 8000, "-n", 4), "8005 tokens do not fit the context of"),
        (("prune", "{}", "out", "--method", "magnitude", "--pattern", "foo"), "4x1 or n:m, as 2:4 (got 'foo')"),
        (
            ("tune", "{}", "out", "--task", "gsm_symbolic", "--samples", 4),
            "is a packed model; this step needs the plain checkpoint",
        ),
        (("tune", "{}", "out", "--task", "gsm8k", "--teacher-device", "cpu"), "teacher_device has no effect: without"),
        (("tune", "{}", "out", "--task", "gsm8k", "--teacher-dtype", "float32"), "teacher_dtype has no effect"),
        (("tune", "{}", "out", "--task", "gsm8k", "--temperature", 2), "temperature has no effect: it is of the kl"),
        (("prune", "{}", "out", "--task", "gsm8k", "--block-size", 64), "block_size has no effect: method alps does"),
        (
            ("prune", "{}", "out", "--task", "gsm8k", "--method", "wanda", "--damping", 0.1),
            "method wanda has no Hessian",
        ),
        (("prune", "{}", "out", "--method", "magnitude", "--damping", 0.1), "has no Hessian; leave it out"),
        (
            ("prune", "{}", "out", "--method", "magnitude", "--calibration-samples", 9),
            "no data; leave out --calibration",
        ),
        (("prune", "{}", "out", "--method", "magnitude", "--max-length", 9), "no data; leave out --max-length"),
        (("quantize", "{}", "out", "--method", "rtn", "--calibration-samples", 9), "--calibration-samples is for"),
        (("quantize", "{}", "out", "--method", "rtn", "--damping", 0.1), "damping has no effect: method rtn has no"),
        (("quantize", "{}", "out", "--method", "rtn", "--long", "cut"), "rtn looks at no data; leave out --long"),
        (("quantize", "{}", "out", "--method", "rtn", "--group-size", 64), "scheme nor overrides nor head say w4a16"),
        (
            ("quantize", "{}", "out", "--method", "rtn", "--scheme", "w4a16", "--group-size", 48),
            "group_size: kernels read groups of multiples of 32 columns",
        ),
    ],
)
def test_what_would_have_no_effect_is_refused(
    cutwork: Any,  # noqa: F811
    packed: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cutwork.engine.weights.costs.have_measured", lambda: False)
    monkeypatch.setattr("cutwork.engine.weights.costs.measure_costs", lambda: pytest.fail("measured before it looked"))
    status, _, err = cutwork(*(str(argument).format(packed) for argument in arguments))
    assert status == 1 and said in " ".join(err.split())
    assert not list(tmp_path.iterdir())


def test_a_port_is_taken_before_its_server_has_loaded_models() -> None:
    with _bind("127.0.0.1", 0) as other, pytest.raises(CutworkError, match=r"already in use; try another --port$"):
        _bind("127.0.0.1", other.getsockname()[1])
