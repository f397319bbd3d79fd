"""Speech, translation and vectors."""

from statistics import median
from typing import Any

from benchmarks.claims.line import line
from benchmarks.common.results import load
from benchmarks.speech.losses_report import both, grouped, points, shown
from benchmarks.translation.glance import BEAMS, ENGINES, PEER, SHAPES, best


def speech() -> str:
    rows, before = _ten_minutes(), _speech_speeds()
    ours = rows["Cutwork dense int8"]
    cpp = max((name for name in rows if name.startswith("whisper.cpp")), key=lambda name: rows[name]["real_time"])
    others = [rows[f"faster-whisper {kind}"] for kind in ("int8", "batched int8", "float32")] + [rows[cpp]]
    times = [ours["real_time"] / row["real_time"] for row in others]
    wrong = [f"{row['wrong_words']:.1f}" for row in others]
    once = [before["Cutwork dense int8", n] / before["faster-whisper int8", n] for n in (1, 5)]
    return line(f"""
        **Speech**: *dense* Whisper-tiny.en, fine-tuned, in int8 writes ten minutes of one reader down {times[0]:.1f}
        times as fast as faster-whisper's int8, {times[1]:.1f} times as fast as that in batches, {times[2]:.1f} times as
        fast as its float32 and {times[3]:.1f} times as fast as {cpp}, the fastest of whisper.cpp, all of the same
        weights (greedy, two cores of Zen 4; {ours["wrong_words"]:.1f}% of words are wrong, theirs
        {", ".join(wrong[:-1])} and {wrong[-1]}%). An earlier build was {once[0]:.1f} (greedy) and {once[1]:.1f}
        times (five beams) as fast as faster-whisper's int8, on 25 seconds of one reader repeated.
    """)


def zeros_in_speech() -> str:
    rows, result = _ten_minutes(), load("whisper_losses_0.json")
    words, models = result["words"], grouped(result)
    levels = (50, 67)

    def gains(kind: str, than: str) -> str:
        speeds = (rows[f"Cutwork sparse {level} {kind}"]["real_time"] for level in levels)
        return " and ".join(f"{each / rows[f'Cutwork dense {than}']['real_time']:.2f}" for each in speeds)

    timed = [rows[f"Cutwork sparse {level} int8"]["file"] for level in levels]
    sparse = [next(row for row in result["rows"] if row["file"] == file) for file in timed]
    dense = models["dense", None, 0.0, "int8"]
    apart = [shown(points({0: row}, dense, words)) for row in sparse]
    wrong = [f"{both([row], words):.1f}" for row in sparse]
    return line(f"""
        **Zeros in speech**: with 50 and 67% zeros Whisper-tiny.en is {gains("f32", "f32")} times as fast as without in
        float32, {gains("int8", "int8")} times in int8, {gains("int8 ahead", "int8")} times with weights reordered
        (medians of three turns, which differ as much in int8; ten minutes, greedy, two cores of Zen 4), and of the
        words of two readers, one of them in no training, the same files in int8 have
        {wrong[0]} and {wrong[1]}% wrong, without zeros {both(list(dense.values()), words):.1f}%
        ({apart[0]} and {apart[1]} points; ALPS, then {sparse[0]["method"]} for one pass a level, one seed).
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


def _ten_minutes() -> dict[str, dict[str, Any]]:
    return {row["engine"]: row for row in load("whisper_ten_minutes.json")["rows"]}
