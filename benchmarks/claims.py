"""What the results say, one sentence each, made of the committed numbers: README, index and pages all quote these.

A claim names what it was measured on and the strongest thing that speaks against it.
"""

import re
from collections.abc import Callable
from math import erfc, sqrt
from statistics import median
from typing import Any

from benchmarks.common.results import RESULTS, load
from benchmarks.evidence import new_numbers, pareto
from benchmarks.evidence import report as evidence
from benchmarks.evidence.designs import PRIMARY
from benchmarks.isa import targets
from benchmarks.isa.cells import Cell
from benchmarks.peers.plan import BANDWIDTH
from benchmarks.peers.store import Store


def decode() -> str:
    cells = _decodes("peers", 1)
    ours, peer = cells["cutwork int8 75%"], cells["llama.cpp Q4_0"]
    return _line(f"""
        **Decode**: {ours / peer:.2f} times as fast as llama.cpp's Q4_0 on one core of Zen 4 (75% zeros, int8, *random*
        weights of TinyLlama-1.1B's shape; peers had 4 KiB pages, we huge ones).
    """)


def dense_int4() -> str:
    (zen4, zen5), (half4, half5) = (
        [_decodes(name, 1)[f"cutwork int8 {zeros}%"] / _decodes(name, 1)["cutwork int4 0%"] for name in _MACHINES]
        for zeros in (75, 50)
    )
    return _line(f"""
        **What the zeros bring** beyond our own dense int4: int8 with 75% zeros anywhere decodes {zen4:.2f} times as
        fast on one core of Zen 4, {zen5:.2f} times on Zen 5, with 50% {half4:.2f} and {half5:.2f} times (random
        weights of a 1.1B shape); with 4:16 in int4 more: "Against 4 bits".
    """)


def prefill() -> str:
    cells = _cells("peers", 2, "prefill", 512)
    name, best = _best_peer(cells)
    ours = cells["cutwork int8 75%"]
    return _line(f"""
        **Prefill** of 512 tokens: {ours:.0f} tok/s in int8 with 75% zeros anywhere, {ours / best:.1f} times the best
        of the others ({name}), on two cores of Zen 4 (random weights of a 1.1B shape; peers had pages of 4 KiB, we
        huge ones).
    """)


def batches() -> str:
    cells = _decodes("peers", 1, batch=16)
    name, best = _best_peer(cells)
    plain, reordered = (cells[f"cutwork int8 75%{how}"] / best for how in ("", " ahead"))
    return _line(f"""
        **Batches** of 16 on one core, the same models and pages: {plain:.2f} times the best of the others ({name}),
        {reordered:.1f} times with weights reordered as `serve` and `batch` do, which makes the sparse model as large
        in memory as dense int8.
    """)


def recovery() -> str:
    rows = {(row["method"], row["target_sparsity"]): row for row in load("accuracy.json")["rows"]}
    pruned, ce, head = (rows[name, 0.7] for name in ("one-shot", "CE", "SquareHead"))
    return _line(f"""
        **Recovery**: with 70% zeros SmolLM2-135M answers {pruned["accuracy"]:.0%} after one-shot SparseGPT,
        {ce["accuracy"]:.0%} after fine-tuning with cross-entropy and {head["accuracy"]:.0%} with SquareHead
        ({head["samples"]} questions, one seed: the last two are not told apart, p = {_p(ce, head):.2f}, as if other
        questions had been asked, since the answers were not kept).
    """)


def pruning() -> str:
    rows = {(row["method"], row["sparsity"]): row for row in load("pruners.json")["rows"]}
    dense, alps, other = rows["dense", 0.0], rows["alps", 0.7], rows["sparsegpt", 0.7]
    return _line(f"""
        **Pruning alone**: at 70% zeros ALPS keeps {alps["accuracy"]:.0%} of {alps["samples"]} questions without any
        training, SparseGPT {other["accuracy"]:.0%}; the dense model has {dense["accuracy"]:.0%}.
    """)


def zeros_kept() -> str:
    cells = [row for row in load("zero_matrix.json")["cells"] if "lost" in row]
    lost = sum(row["lost"] for row in cells)
    return _line(f"""
        **Zeros stay**: {lost} are lost in {len(cells)} combinations of optimiser, clipping, accumulation, one
        process or two, and quantiser (a tiny model, three steps).
    """)


def speech() -> str:
    rows = _speech_speeds()
    gains = [rows["Cutwork dense int8", n] / rows["faster-whisper int8", n] for n in (1, 5)]
    return _line(f"""
        **Speech**: *dense* Whisper-tiny.en in int8 is {gains[0]:.1f} (greedy) and {gains[1]:.1f} times (five beams) as
        fast as faster-whisper's int8, on 25 seconds of one reader repeated.
    """)


def zeros_in_speech() -> str:
    rows = _speech_speeds()
    gains = [
        100 * (rows[f"Cutwork sparse squarehead-{level} int8", n] / rows["Cutwork dense int8", n] - 1)
        for level in (50, 75)
        for n in (1, 5)
    ]
    found = load("whisper-tiny.en-speech.json")["rows"]
    errors = {row["sparsity"]: row["real"]["wer"] for row in found if row["method"].endswith("W8A8")}
    return _line(f"""
        **Zeros in speech** add {min(gains):.0f} to {max(gains):.0f}%, within the noise, and cost words:
        {errors[0.0]:.0f}% are wrong in real speech without zeros, {errors[0.5]:.0f}% at 50, {errors[0.75]:.0f}% at 75%
        (the same weights, quantised another way than the timed files).
    """)


def translation() -> str:
    rows = {
        (row["engine"], row["shape"], row["beams"]): row["sentences_per_second"]
        for row in load("translation_speed.json")["rows"]
    }
    base, small = (
        [rows[name, shape, 5] for name in ("Cutwork sparse int8", "CTranslate2 int8", "Cutwork sparse int8 all")]
        for shape in ("t5-base", "t5-small")
    )
    return _line(f"""
        **Translation**: T5-base with five beams does {base[0]:.1f} sentences/s at 75% zeros (random weights, two
        cores of Zen 4), CTranslate2 int8 {base[1]:.1f}. T5-small loses, {small[0]:.1f} to {small[1]:.1f}, unless its
        head and `wo` are int8 too ({small[2]:.1f}).
    """)


def bits() -> str:
    rows = {(row["zeros"], row["scheme"], row["method"]): row["accuracy"] for row in load("quantization.json")["rows"]}
    floats, rounded, gptq = (rows["dense", *how] for how in ((None, None), ("w4a16", "rtn"), ("w4a16", "gptq")))
    return _line(f"""
        **Fewer bits**: 4-bit weights by masked GPTQ keep {gptq:.1%} of the dense model's {floats:.1%}, by rounding
        {rounded:.1%} (the weights to begin with are a 4-bit file's, which flatters both).
    """)


def speculation() -> str:
    rows = [row for row in load("speculative.json")["rows"] if row["batch"] == 1]
    best = max(rows, key=lambda row: row["speed_up"])
    alone = {row["name"]: row["decode_tokens_per_second"] for row in load("smollm2-gsm.json")["variants"]}["dense-bf16"]
    auto = load("draft_auto.json")["rows"]
    drafted = max((row for row in auto if row["draft_tokens"]), key=lambda row: row["speed_up"])
    [int8] = [row for row in auto if row.get("alone")]
    return _line(f"""
        **Speculation**: a sparse draft makes the dense float32 teacher {best["speed_up"]:.2f} times as fast,
        {best["tokens_per_second"]:.0f} tok/s, with the same answers. The same teacher in bfloat16 does {alone:.0f} by
        itself, so as measured it does not pay. `--draft auto`, which makes a draft of the model itself in int4, makes
        SmolLM2-135M in bfloat16 {drafted["speed_up"]:.2f} times as fast (two threads of Zen 4, one stream); of
        {drafted["answers"]} answers
        {drafted["same"]} are the same to the token. Int8 alone is {int8["speed_up"]:.2f} times as fast and says other
        things ({int8["same"]} the same).
    """)


def encoders() -> str:
    seconds = load("encoders.json")["seconds"]
    t5, whisper = (
        median(seconds[f"{name} 0% int8 2 threads"]) / median(seconds[f"{name} 75% int8 2 threads"])
        for name in ("t5-base", "whisper-base")
    )
    return _line(f"""
        **Encoders**: 75% zeros make T5-base's {t5:.2f} and Whisper-base's {whisper:.2f} times as fast in int8 on two
        threads; half of Whisper's is attention, which has no zeros.
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
    return _line(f"""
        **Encoders of sentences**: all-MiniLM-L6-v2 in int8 makes {said["0%"]} times as many vectors a second as the
        better of ONNX Runtime's and OpenVINO's int8 without zeros, {said["80%"]} times with 80%, {said["4:16"]} times
        with 4:16 (one text or 32, one thread or two). A short training leaves {lost["gsm8k"][0]:.1f} and
        {lost["gsm8k"][1]:.1f} points of nDCG lost where solutions of GSM8K are searched, {lost["wikitext"][0]:.1f} and
        {lost["wikitext"][1]:.1f} where paragraphs of WikiText are.
    """)


def by_budget() -> str:
    rows = [row for row in load("promises.json")["rows"] if "refused" not in row]
    budgets = {row["within"]: [each for each in rows if each["within"] == row["within"]] for row in rows}
    speeds = {budget: [f"{row['speedup']['measured']:.2f}" for row in each] for budget, each in budgets.items()}
    lost = {budget: [f"{row['test']['points']:.1f}" for row in each] for budget, each in budgets.items()}
    found = "; ".join(f"{b:g}: {' and '.join(speeds[b])} times, {' and '.join(lost[b])} lost" for b in budgets)
    kept = sum(row["kept"] for row in rows)
    seeds = len({row["seed"] for row in rows})
    return _line(f"""
        **Compress by budget**: what `cutwork compress` makes of SmolLM2-135M for so many points allowed, its decode
        speed beside bfloat16, and what it lost on 600 questions that nobody had looked at ({found}): {kept} of
        {len(rows)} promises were kept ({seeds} seed{"s" * (seeds > 1)}, a teacher that had not converged).
    """)


def serving() -> str:
    servers = {name: row["load"] for name, row in load("serving.json")["servers"].items()}
    ours, peer = servers["cutwork int8 75%"], servers["llama-server Q4_0"]
    return _line(f"""
        **Serving**: 64 clients at once get {ours["tokens_per_second"]:.0f} tok/s of the 1.1B model at 75% zeros from
        two cores of Zen 5, {peer["tokens_per_second"]:.1f} from llama-server in Q4_0; the two were not measured for
        the same time ({ours["seconds"] / 60:g} and {peer["seconds"] / 60:g} minutes) nor tuned alike.
    """)


def without_vbmi2() -> str:
    def times(zeros: str, name: str) -> str:
        [each] = [
            v
            for v in targets.verdicts(load(f"{name}.json"))
            if (v.work, v.against, v.threads) == (f"avx2 int8 {zeros}: decode", "avx2 int8 dense", 1)
        ]
        return f"{each.ratio:.2f} ({min(each.ratios):.2f} to {max(each.ratios):.2f})"

    cells = targets.cells_of(load("isa.json"))
    ours, peer = (
        median(run["decode"] for run in cells[Cell(engine, "avx2", weights, 1)]["runs"])
        for engine, weights in (("cutwork", "int8 4:16"), ("llama.cpp", "Q4_0"))
    )
    return _line(f"""
        **Without AVX-512's VBMI2**, as on Zen 3 and older and on Intel's desktop processors since Alder Lake, 75% zeros
        anywhere make int8 decode {times("75%", "isa_zen4")} times as fast as none on one core of Zen 4 and
        {times("75%", "isa_zen5")} on Zen 5, with AVX2 alone; where 4 of 16 neighbours are kept
        {times("4:16", "isa_zen4")} and {times("4:16", "isa_zen5")} times. An earlier build did {ours:.1f} tok/s there,
        llama.cpp's Q4_0 built for AVX2 {peer:.1f} (its only run).
    """)


def against_four_bits() -> str:
    found = {(each.work, each.against, each.threads): each for each in targets.verdicts(load("isa_zen4.json"))}
    [zen5] = [
        each
        for each in targets.verdicts(load("isa_avx512.json"))
        if each.threads == 1 and each.work == "avx512 int4 4:16: decode" and each.against.startswith("ik")
    ]

    def times(work: str, against: str, threads: int = 1) -> str:
        each = found[work, against, threads]
        return f"{each.ratio:.2f} times ({min(each.ratios):.2f} to {max(each.ratios):.2f})"

    decode, peer, own = "avx512 int4 4:16: decode", "ik_llama.cpp (native) Q4_0", "avx512 int4 dense"
    return _line(f"""
        **Against 4 bits**: where 4 of 16 neighbours are kept, int4 decodes {times(decode, peer)} as fast as
        ik_llama.cpp's Q4_0, built natively, on one core of Zen 4, {times(decode, peer, 2)} on two; that is
        {times(decode, own)} and {times(decode, own, 2)} as fast as our own dense int4. Batches of 16 in int8 do
        {times("avx512 int8 4:16: batch 16", peer)} ik's on one core. Random weights of a 1.1B shape, huge pages for
        all, median and extremes of {len(found[decode, peer, 1].ratios)} rounds; an earlier build on one core of Zen 5
        did {zen5.ratio:.2f} times ik's. What the pattern costs a small model: "Zeros that were trained".
    """)


def fine_tuned_zeros() -> str:
    result = load("evidence_short.json")
    seeds, (mean, low, high) = evidence.primary(result)
    [teacher] = evidence.rows(result, split="test", kind="teacher")
    questions = teacher["samples"]
    shares = {
        name: sum(row["right"] for row in found) / sum(row["samples"] for row in found)
        for name, found in {
            "teacher": evidence.rows(result, split="test", kind="teacher"),
            "one-shot": evidence.rows(result, split="test", kind="one-shot"),
            **{loss: evidence.rows(result, split="test", kind="core", loss=loss) for loss in PRIMARY},
        }.items()
    }
    after = load("evidence_longer.json")
    longer = {kind: evidence.rows(after, split="test", kind=kind) for kind in ("teacher", "core", "control")}
    of_patterns = [row for row in load("patterns.json")["rows"] if row["kind"] == "tuned"]
    tuned = {row["pattern"]: f"{row['right'] / row['samples']:.1%}" for row in of_patterns}
    asked = of_patterns[0]["samples"]
    said = {kind: " and ".join(f"{row['right'] / row['samples']:.1%}" for row in each) for kind, each in longer.items()}
    return _line(f"""
        **Zeros that were trained**: with 4 of 16 neighbours kept, SmolLM2-135M answers
        {shares["one-shot"]:.1%} of {questions:,} short word problems after one-shot ALPS, {shares[PRIMARY[0]]:.1%}
        after cross-entropy and {shares[PRIMARY[1]]:.1%} after SquareHead for the same time ({seeds} seeds, int8; the
        difference is {mean:+.1f} points, {low:+.1f} to {high:+.1f}; Zen 4), its dense teacher {shares["teacher"]:.1%}.
        After three times the steps of cross-entropy, on {longer["core"][0]["samples"]:,} other questions, it answers
        {said["core"]} ({len(longer["core"])} seeds), that teacher {said["teacher"]}, a dense model trained on for as
        long {said["control"]} (one seed). The pattern has its price: after the first of these fine-tunings zeros
        anywhere answer {tuned["unstructured"]} of {asked} validation questions, 4:16 {tuned["4:16"]}.
    """)


def against_its_own_four_bits() -> str:
    result = load("pareto_longer.json")
    groups = dict(pareto.names(result["models"]))
    zeros, samples = "75% zeros (4:16)", result["models"][0]["samples"]
    after = load("evidence_longer.json")
    [control] = evidence.rows(after, kind="control, quantized", encoding="int4")
    steps = re.findall(r"-steps(\d+)-", groups[f"cutwork int8, {zeros}"][0]["file"])[0]

    def said(name: str) -> str:
        return f"{pareto.share(groups[name])[0]:.1%} at {pareto.speed(groups[name], 'decode, 1 threads'):.0f} tok/s"

    return _line(f"""
        **One teacher, every way to make it small** (one core of {result["provenance"]["processor"]["generation"]}, one
        stream, one seed, {samples:,} questions): our int8 with {zeros}, fine-tuned for {steps} steps, answers
        {said(f"cutwork int8, {zeros}")}, int4 with them {said(f"cutwork int4, {zeros}")}, dense int8
        {said("cutwork int8")}, dense int4 {said("cutwork int4")} ({control["right"] / control["samples"]:.1%} if it is
        trained on for as long); llama.cpp's Q4_0 of the same teacher
        {said("llama.cpp Q4_0")}, Q4_K_M {said("llama.cpp Q4_K_M")}, Q8_0 {said("llama.cpp Q8_0")}.
    """)


def by_heart() -> str:
    result = {row["design"]: row for row in load("seen_numbers.json")["designs"]}["longer"]
    rows = {row["file"]: row for row in result["rows"]}
    ours, dense = rows["int8, 75% zeros, fine-tuned"], rows["dense int8"]
    mean, low, high = ours["new"]["minus_dense"]
    fewer = rows["int4, 75% zeros, fine-tuned"]["new"]["minus_dense"]
    return _line(f"""
        **How much is learned by heart**: the numbers of {result["seen"]} of those {result["questions"]:,} questions
        also occur in training, under other names. Where they do, int8 with 75% zeros answers
        {ours["seen"]["right"]:.1%} and dense int8 {dense["seen"]["right"]:.1%}; on the
        {ours["new"]["questions"]} others {ours["new"]["right"]:.1%} and {dense["new"]["right"]:.1%}, a difference of
        {mean:+.1f} points ({low:+.1f} to {high:+.1f}, {ours["seeds"]} seeds), and in int4 {fewer[0]:+.1f}
        ({fewer[1]:+.1f} to {fewer[2]:+.1f}, one seed; looked at after the test was known).
    """)


def where_nothing_is_known_by_heart() -> str:
    result = load("new_numbers.json")
    rows = new_numbers.grouped(result)
    four = ("tuned", "4:16", "int8")
    seeds, samples = len(rows[new_numbers.ANYWHERE]), rows[new_numbers.ANYWHERE][0]["samples"]
    steps = result["tune"]["max_steps"]

    def share(model: new_numbers.Named) -> str:
        return f"{sum(row['right'] for row in rows[model]) / sum(row['samples'] for row in rows[model]):.1%}"

    def less(ours: new_numbers.Named, theirs: new_numbers.Named) -> str:
        mean, low, high = new_numbers.difference(result, ours, theirs) or (0.0, 0.0, 0.0)
        return f"{mean:+.1f} points, {low:+.1f} to {high:+.1f}"

    return _line(f"""
        **On numbers that training never shows** ({samples:,} short word problems, seeds: {seeds}, announced
        beforehand): SmolLM2-135M with 75% zeros anywhere, fine-tuned for {steps} steps, answers
        {share(new_numbers.ANYWHERE)} in int8, with 4:16 {share(four)}, the dense model trained on for as long
        {share(new_numbers.CONTROL)} ({less(new_numbers.ANYWHERE, new_numbers.CONTROL)}, and
        {less(four, new_numbers.CONTROL)}), in int4 {share(new_numbers.INT4)}.
    """)


def layers() -> str:
    found = {
        (c["engine"], c["sparsity"], c["tokens"]): c["median"]
        for c in _store("layers").layers.values()
        if (c["dtype"], c["threads"]) == ("int8", 1)
    }
    plain, reordered = (
        [found[name, zeros, 128] / found["DeepSparse", zeros, 128] for zeros in (0.5, 0.75, 0.9)]
        for name in ("cutwork", "cutwork ahead")
    )
    one, many = (found["cutwork 4:16", 0.75, tokens] / found["DeepSparse", 0.75, tokens] for tokens in (1, 128))
    return _line(f"""
        **Single layers** in int8, of 128 tokens, reach {plain[0]:.2f}, {plain[1]:.2f} and
        {plain[2]:.2f} of the speed of DeepSparse's closed kernels at 50, 75 and 90% zeros, {reordered[0]:.2f},
        {reordered[1]:.2f} and {reordered[2]:.2f} with reordered weights. Where 4 of 16 neighbours are kept they are
        {many:.2f} times as fast as its 75% anywhere, and {one:.2f} times for one token (one core of Zen 4).
    """)


CLAIMS: dict[str, tuple[Callable[[], str], str]] = {  # the sentence, and the page that shows it
    "decode": (decode, "engines.md"),
    "dense int4": (dense_int4, "engines.md"),
    "prefill": (prefill, "engines.md"),
    "batches": (batches, "engines.md"),
    "recovery": (recovery, "recovery.md"),
    "pruning": (pruning, "pruning.md"),
    "zeros kept": (zeros_kept, "zeros.md"),
    "bits": (bits, "bits.md"),
    "speech": (speech, "speech.md"),
    "zeros in speech": (zeros_in_speech, "speech.md"),
    "translation": (translation, "translation.md"),
    "encoders": (encoders, "encoders.md"),
    "sentences": (sentences, "embeddings.md"),
    "by budget": (by_budget, "compress.md"),
    "speculation": (speculation, "speculation.md"),
    "serving": (serving, "serving.md"),
    "without VBMI2": (without_vbmi2, "instruction-sets.md"),
    "against 4 bits": (against_four_bits, "instruction-sets.md"),
    "evidence": (fine_tuned_zeros, "evidence.md"),
    "pareto": (against_its_own_four_bits, "evidence.md"),
    "by heart": (by_heart, "evidence.md"),
    "new numbers": (where_nothing_is_known_by_heart, "evidence.md"),
    "layers": (layers, "layers.md"),
}
IN_README = {  # by what they tell; the others stand on their pages
    "What zeros cost": ("new numbers", "pareto", "by heart", "evidence"),
    "What zeros bring": ("against 4 bits", "dense int4", "without VBMI2", "prefill", "batches", "serving"),
    "Speech, translation, vectors": ("speech", "zeros in speech", "translation", "sentences"),
    "What else speaks against us": ("layers",),
}
_MACHINES = ("peers", "peers_zen5")


def _line(text: str) -> str:
    return " ".join(text.split())


def _store(name: str) -> Store:
    return Store.open(RESULTS / f"{name}.json")


def _is(cell: dict[str, Any], threads: int, phase: str, prompt: int, batch: int, isa: str = "native") -> bool:
    about = tuple(cell[key] for key in ("shape", "threads", "phase", "prompt", "batch", "isa"))
    return about == ("1.1b", threads, phase, prompt, batch, isa)


def _cells(name: str, threads: int, phase: str, prompt: int, batch: int = 1) -> dict[str, float]:
    return {c["engine"]: c["median"] for c in _store(name).cells.values() if _is(c, threads, phase, prompt, batch)}


def _decodes(name: str, threads: int, batch: int = 1) -> dict[str, float]:
    return _cells(name, threads, "decode", 16, batch)


def _best_peer(cells: dict[str, float]) -> tuple[str, float]:
    peers = {n: v for n, v in cells.items() if not n.startswith("cutwork") and n != BANDWIDTH}
    name = max(peers, key=lambda n: peers[n])
    return name, peers[name]


def _speech_speeds() -> dict[tuple[str, int], float]:
    return {(row["engine"], row["beams"]): row["real_time"] for row in load("whisper_speed.json")["rows"]}


def _p(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Two-sided p of a difference between two accuracies, questions taken as independent."""
    variance = sum(row["accuracy"] * (1 - row["accuracy"]) / row["samples"] for row in (a, b))
    return erfc(abs(a["accuracy"] - b["accuracy"]) / sqrt(2 * variance))
