"""Speech, translation and vectors."""

from statistics import median
from typing import Any

from benchmarks.claims.line import line
from benchmarks.common.results import load
from benchmarks.translation.glance import BEAMS, ENGINES, PEER, SHAPES, best


def speech() -> str:
    rows = _speech_speeds()
    gains = [rows["Cutwork dense int8", n] / rows["faster-whisper int8", n] for n in (1, 5)]
    return line(f"""
        **Speech**: *dense* Whisper-tiny.en in int8 is {gains[0]:.1f} (greedy) and {gains[1]:.1f} times (five beams) as
        fast as faster-whisper's int8, on 25 seconds of one reader repeated.
    """)


def zeros_in_speech() -> str:
    rows = _speech_speeds()
    gains, reordered = (
        [
            100 * (rows[f"Cutwork sparse squarehead-{level} int8{how}", n] / rows["Cutwork dense int8", n] - 1)
            for level in (50, 75)
            for n in (1, 5)
        ]
        for how in ("", " ahead")
    )
    found = load("whisper-tiny.en-speech.json")["rows"]
    errors = {row["sparsity"]: row["real"]["wer"] for row in found if row["method"].endswith("W8A8")}
    return line(f"""
        **Zeros in speech** add {min(gains):.0f} to {max(gains):.0f}%, within the noise, {min(reordered):.0f} to
        {max(reordered):.0f}% with reordered weights, and cost words:
        {errors[0.0]:.0f}% are wrong in real speech without zeros, {errors[0.5]:.0f}% at 50, {errors[0.75]:.0f}% at 75%
        (the same weights, quantised another way than the timed files).
    """)


def translation() -> str:
    now, before = (load(f"translation_speed{when}.json") for when in ("", "_before"))

    def each(shape: str, beams: int) -> str:
        speeds = [best(now, engine, shape, beams)["sentences_per_second"] for engine in ENGINES]
        *others, last = (f"{speed:.{0 if speed >= 100 else 1}f}" for speed in speeds)
        return f"{', '.join(others)} and {last}"

    ours, _, theirs = (best(now, engine, "trained", 5)["bleu"] for engine in ENGINES)
    once = {
        (shape, beams): best(before, PEER, shape, beams)["sentences_per_second"] for shape in SHAPES for beams in BEAMS
    }
    return line(f"""
        **Translation** with 75% zeros in int8, beside our int8 without zeros and CTranslate2's, the fastest setting of
        each, which is a process or a translator on each core, sentences/s of two cores of Zen 4: T5-base (random
        weights) {each("t5-base", 1)} greedy, {each("t5-base", 5)} with five beams; T5-small {each("t5-small", 1)},
        {each("t5-small", 5)}; a trained T5 of 7 million weights {each("trained", 1)}, {each("trained", 5)} with five
        beams. In the run before CTranslate2 did {once["trained", 1]:.0f} and {once["trained", 5]:.0f} there, so that
        with beams we are no faster, on T5-small {once["t5-small", 1]:.1f} and {once["t5-small", 5]:.1f}, on T5-base
        {once["t5-base", 1]:.1f} and {once["t5-base", 5]:.1f}. Its beams are {theirs:.1f} BLEU, ours {ours:.1f}.
    """)


def encoders() -> str:
    seconds = load("encoders.json")["seconds"]
    t5, whisper = (
        median(seconds[f"{name} 0% int8 2 threads"]) / median(seconds[f"{name} 75% int8 2 threads"])
        for name in ("t5-base", "whisper-base")
    )
    return line(f"""
        **Encoders**: 75% zeros make T5-base's {t5:.2f} and Whisper-base's {whisper:.2f} times as fast in int8 on two
        threads.
    """)


def sentences() -> str:
    speeds: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in load("embedding_speed.json")["rows"]:
        cell = speeds.setdefault((row["texts"], row["batch"], row["threads"]), {})
        cell[row["engine"].removeprefix("Cutwork ")] = row["per_second"]
    peers = ("ONNX Runtime int8", "OpenVINO int8")
    times = {
        zeros: sorted(cell[zeros] / max(cell[peer] for peer in peers) for cell in speeds.values())
        for zeros in ("0%", "80%", "4:16")
    }
    quality = {row["model"]: row for row in load("embedding_quality.json")["rows"]}
    lost = {
        kind: [quality[f"{zeros}, trained, int8"][kind]["lost"] for zeros in ("80%", "4:16")]
        for kind in ("gsm8k", "wikitext")
    }
    said = {zeros: f"{found[0]:.2f} to {found[-1]:.2f}" for zeros, found in times.items()}
    return line(f"""
        **Encoders of sentences**: all-MiniLM-L6-v2 in int8 makes {said["0%"]} times as many vectors a second as the
        better of ONNX Runtime's and OpenVINO's int8 without zeros, {said["80%"]} times with 80%, {said["4:16"]} times
        with 4:16 (one text or 32, one thread or two). A short training leaves {lost["gsm8k"][0]:.1f} and
        {lost["gsm8k"][1]:.1f} points of nDCG lost where solutions of GSM8K are searched, {lost["wikitext"][0]:.1f} and
        {lost["wikitext"][1]:.1f} where paragraphs of WikiText are.
    """)


def _speech_speeds() -> dict[tuple[str, int], float]:
    return {(row["engine"], row["beams"]): row["real_time"] for row in load("whisper_speed.json")["rows"]}
