"""What zeros cost a model that is trained afterwards."""

import re

from benchmarks.claims.line import line
from benchmarks.common.results import load
from benchmarks.evidence import (
    converged,
    converged_files,
    converged_longer,
    feature_loss,
    gsm8k,
    int4_heads,
    new_numbers,
    pareto,
)
from benchmarks.evidence import report as evidence
from benchmarks.evidence.converged_files import INT4, INT8
from benchmarks.evidence.designs import DENSE, PRIMARY
from benchmarks.evidence.levels import TEACHER
from benchmarks.evidence.pareto_figure import speed
from benchmarks.evidence.peer_files import LLAMA, OPENVINO
from benchmarks.evidence.statistics import right_share
from benchmarks.isa.cells import IK


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
    return line(f"""
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
        return f"{right_share(groups[name])[0]:.1%} at {speed(groups[name], 'decode, 1 threads'):.0f} tok/s"

    return line(f"""
        **One teacher, our files and llama.cpp's of it** (one core of
        {result["provenance"]["processor"]["generation"]}, one stream, one seed, {samples:,} questions): our int8 with
        {zeros}, fine-tuned for {steps} steps, answers {said(f"cutwork int8, {zeros}")}, int4 with them
        {said(f"cutwork int4, {zeros}")}, dense int8 {said("cutwork int8")}, dense int4 {said("cutwork int4")}
        ({control["right"] / control["samples"]:.1%} if it is trained on for as long); llama.cpp's Q4_0 of the same
        teacher {said("llama.cpp Q4_0")}, Q4_K_M {said("llama.cpp Q4_K_M")}, Q8_0 {said("llama.cpp Q8_0")}.
    """)


def squarehead() -> str:
    rows = feature_loss.tested(load("feature_loss.json"))
    [ours] = rows.keys() - {feature_loss.CE, feature_loss.FEWER}
    shares = {
        name: f"{sum(r['right'] for r in each) / sum(r['samples'] for r in each):.1%}" for name, each in rows.items()
    }
    phases = {name: sum(phase.steps for phase in feature_loss.VARIANTS[name]) for name in rows}

    def less(other: str) -> str:
        mean, low, high = feature_loss.paired(rows, ours, other)
        return f"{mean:+.1f} points, {low:+.1f} to {high:+.1f}"

    return line(f"""
        **SquareHead**, its gradient not clipped: SmolLM2-135M with 4 of 16 neighbours kept answers {shares[ours]} of
        {rows[ours][0]["samples"]} questions of a short task after {phases[ours]} steps, after as many of cross-entropy
        {shares[feature_loss.FEWER]} ({less(feature_loss.FEWER)}), but after the {phases[feature_loss.CE]} that take the
        same time {shares[feature_loss.CE]} ({less(feature_loss.CE)}; {len(rows[ours])} seeds, int8, one learning rate,
        a teacher that had not converged).
    """)


def by_heart() -> str:
    result = {row["design"]: row for row in load("seen_numbers.json")["designs"]}["longer"]
    rows = {row["file"]: row for row in result["rows"]}
    ours, dense = rows["int8, 75% zeros, fine-tuned"], rows["dense int8"]
    mean, low, high = ours["new"]["minus_dense"]
    fewer = rows["int4, 75% zeros, fine-tuned"]["new"]["minus_dense"]
    return line(f"""
        **How much is learned by heart**: the numbers of {result["seen"]} of those {result["questions"]:,} questions
        also occur in training, under other names. Where they do, int8 with 75% zeros answers
        {ours["seen"]["right"]:.1%} and dense int8 {dense["seen"]["right"]:.1%}; on the
        {ours["new"]["questions"]} others {ours["new"]["right"]:.1%} and {dense["new"]["right"]:.1%}, a difference of
        {mean:+.1f} points ({low:+.1f} to {high:+.1f}, {ours["seeds"]} seeds), and in int4 {fewer[0]:+.1f}
        ({fewer[1]:+.1f} to {fewer[2]:+.1f}, one seed; looked at after the test was known).
    """)


def where_nothing_is_known_by_heart() -> str:
    result, timed = load("new_numbers.json"), load("pareto_new_numbers.json")
    groups, machine = dict(pareto.names(timed["models"])), timed["provenance"]["processor"]["generation"]
    rows = new_numbers.grouped(result)
    four, fewer = (("tuned", "4:16", encoding) for encoding in ("int8", "int4"))
    seeds, samples = len(rows[new_numbers.ANYWHERE]), rows[new_numbers.ANYWHERE][0]["samples"]
    steps = result["tune"]["max_steps"]

    def share(model: new_numbers.Named) -> str:
        return f"{sum(row['right'] for row in rows[model]) / sum(row['samples'] for row in rows[model]):.1%}"

    def said(name: str, engine: str = "cutwork") -> str:
        return f"{speed(groups[f'{engine} {name}'], 'decode, 1 threads'):.0f}"

    def peer(kind: str) -> str:
        return f"{right_share(groups[f'llama.cpp {kind}'])[0]:.1%}"

    def less(ours: new_numbers.Named, theirs: new_numbers.Named) -> str:
        mean, low, high = new_numbers.difference(result, ours, theirs) or (0.0, 0.0, 0.0)
        return f"{mean:+.1f} points, {low:+.1f} to {high:+.1f}"

    return line(f"""
        **On numbers that training never shows** ({samples:,} short word problems, seeds: {seeds}, announced
        beforehand, speeds after the first seed's answers): SmolLM2-135M with 75% zeros anywhere, fine-tuned for {steps}
        steps, answers {share(new_numbers.ANYWHERE)} in int8, with 4:16 {share(four)}, the dense model trained on for as
        long {share(new_numbers.CONTROL)} ({less(new_numbers.ANYWHERE, new_numbers.CONTROL)}, and
        {less(four, new_numbers.CONTROL)}), in int4 {share(new_numbers.INT4)}; 4:16 in int4 {share(fewer)}
        ({less(fewer, new_numbers.CONTROL)}, beside dense int8 too). The teacher that all began with,
        {share(new_numbers.TEACHER)}, had not converged. One stream on one core of {machine} decodes
        {said("int8, 75% zeros (anywhere)")} tok/s with zeros anywhere and {said("int8, 75% zeros (4:16)")} with 4:16,
        both in int8, {said("int4, 75% zeros (4:16)")} with 4:16 in int4, the dense model {said("int8")} in int8 and
        {said("int4")} in int4; llama.cpp's Q4_K_M of its first seed answers {peer("Q4_K_M")} at
        {said("Q4_K_M", "llama.cpp")} tok/s, IQ4_NL {peer("IQ4_NL")} at {said("IQ4_NL", "llama.cpp")}, Q4_0
        {peer("Q4_0")} at {said("Q4_0", "llama.cpp")}.
    """)


def heads_in_four_bits() -> str:
    result, timed = load("int4_heads.json"), load("pareto_int4_heads.json")
    groups, machine = dict(pareto.names(timed["models"])), timed["provenance"]["processor"]["generation"]
    rows, (sparse, dense) = int4_heads.grouped(result)[int4_heads.PATTERNS[0], INT4], int4_heads.PATTERNS
    zeros = f", 75% zeros ({sparse})"

    def cost(encoding: str, pattern: str) -> str:
        mean, low, high = int4_heads.difference(result, encoding, INT4, pattern) or (0.0, 0.0, 0.0)
        return f"{mean:+.1f} points ({low:+.1f} to {high:+.1f})"

    def said(name: str) -> str:
        found = groups[f"cutwork {name}"]
        return f"{right_share(found)[0]:.1%} at {speed(found, 'decode, 1 threads'):.0f} tok/s"

    kinds = ("Q4_K_M", "IQ4_NL", "Q4_0", "Q4_0, head too")
    peers = ", ".join(f"{kind} {speed(groups[f'{LLAMA} {kind}'], 'decode, 1 threads'):.0f} tok/s" for kind in kinds)
    return line(f"""
        **An output head in int4** ({rows[0]["samples"]:,} short word problems with new numbers, seeds:
        {len(rows)}, announced beforehand): of SmolLM2-135M with 4 of 16 neighbours kept, all in int4, a head
        rounded to the nearest changes the right answers by {cost(int4_heads.ROUNDED, sparse)}, one made by GPTQ with
        its own inputs by {cost(int4_heads.GPTQ, sparse)}; of the dense model, trained on for as long, by
        {cost(int4_heads.ROUNDED, dense)} and {cost(int4_heads.GPTQ, dense)}. One stream on one core of {machine}: with
        zeros {said(f"{INT4}{zeros}")}, by GPTQ {said(f"{int4_heads.GPTQ}{zeros}")}, without {said(INT4)} and
        {said(int4_heads.GPTQ)}; llama.cpp's of the dense model, which were asked nothing, {peers}.
    """)


def as_long_as_the_teacher() -> str:
    result, timed = load("converged_longer.json"), load("pareto_converged_longer.json")
    rows, groups = converged_files.files(result), dict(pareto.names(timed["models"]))
    zeros, dense = "75% 4:16", converged.named(DENSE)
    samples, steps = rows[zeros, INT8][0]["samples"], converged_longer.LENGTH

    def both(kind: str) -> str:
        return " and ".join(f"{right_share(rows[kind, encoding])[0]:.1%}" for encoding in (INT8, INT4))

    def less(other: str) -> str:
        found = [converged.above(rows[zeros, encoding], rows[other, encoding]) for encoding in (INT8, INT4)]
        return ", and ".join(
            f"{mean:+.1f} points, {low:+.1f} to {high:+.1f}" for mean, low, high in filter(None, found)
        )

    def said(name: str) -> str:
        return f"{speed(groups[name], 'decode, 1 threads'):.0f}"

    def peer(name: str) -> str:
        return f"{name} {right_share(groups[name])[0]:.1%} at {said(name)}"

    peers = [f"{engine} {kind}" for engine in (LLAMA, IK) for kind in ("Q4_K_M", "IQ4_NL", "Q4_0")] + [
        f"{OPENVINO} int4"
    ]
    return line(f"""
        **Trained for as long as its teacher** ({samples:,} multiplications in words with new numbers, seeds:
        {len(rows[zeros, INT8])}, announced beforehand): after {steps} steps SmolLM2-135M with 4 of 16 neighbours kept
        answers {both(zeros)} in int8 and int4, that teacher {both(TEACHER)} ({less(TEACHER)}), the teacher itself
        trained on for as long {both(dense)} ({less(dense)}). One stream on one core of
        {timed["provenance"]["processor"]["generation"]} decodes {said("cutwork int8, 75% zeros (4:16)")} and
        {said("cutwork int4, 75% zeros (4:16)")} tok/s with zeros, {said("cutwork int8, trained on")} and
        {said("cutwork int4, trained on")} without; others' files of the dense model trained on:
        {", ".join(peer(name) for name in peers if name in groups)}.
    """)


def on_gsm8k() -> str:
    result = load("gsm8k.json")
    groups = gsm8k.grouped(result)
    sparse = gsm8k.Wanted("CE", 0.75, "unstructured", 0).name
    rows = groups[sparse, "int8"]
    mean, low, high = gsm8k.difference(groups, (sparse, "int8"), (gsm8k.DENSE, "int8"))
    seeds = len({row["seed"] for row in rows})
    both_losses = gsm8k.Wanted("CE+SquareHead", 0.75, "unstructured", 0).name
    more = gsm8k.difference(groups, (both_losses, "int8"), (sparse, "int8"))
    times = rows[0]["rate"] / groups[gsm8k.DENSE, "int8"][0]["rate"]

    def share(model: str, encoding: str) -> str:
        return f"{right_share(groups[model, encoding])[0]:.1%}"

    def both(model: str) -> str:
        return f"{share(model, 'int8')} in int8 and {share(model, 'int4')} in int4"

    return line(f"""
        **On GSM8K** ({rows[0]["samples"]:,} problems, seeds: {seeds}, announced beforehand) zeros cost much:
        Qwen2.5-Coder-0.5B with 75% of them anywhere, fine-tuned for {rows[0]["steps"]} steps of
        {result["tune"]["batch_size"]} problems, half an epoch, answers {both(sparse)}, with SquareHead in about the
        same time {both(both_losses)} ({more[0]:+.1f} points, {more[1]:+.1f} to {more[2]:+.1f}, in int8), in one shot
        {share("75% zeros, anywhere, one shot", "int8")}, the dense model trained on for as long, at
        {1 / times:.1f} of that rate, {both(gsm8k.DENSE)} ({mean:+.1f} points, {low:+.1f} to {high:+.1f}, both in int8),
        the teacher that both began with
        {both(gsm8k.TEACHER)}. No speed was measured of these files.
    """)
