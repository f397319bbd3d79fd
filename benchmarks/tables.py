"""Writes the measured figures into README.md and docs/: nothing there is typed by hand.

    python -m benchmarks.tables             # after a result has changed
    python -m benchmarks.tables --check     # say which pages are behind, as a test does

A page holds `<!-- table: NAME -->` and `<!-- end of table -->`; what stands between is replaced by the table of that
name and the line that says where it comes from. "claims" are the sentences of benchmarks/claims, "claim NAME" one;
"ops" is what plan/ops.py declares.
"""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import claims
from benchmarks.common.provenance import ROOT
from benchmarks.common.results import RESULTS, load, where
from benchmarks.compress import advantage, choices, drafts, frontier, history, low_rank, prices, promises, token_weights
from benchmarks.embedding import quality as embedding_quality
from benchmarks.embedding import speed as embedding_speed
from benchmarks.engine import (
    arm_loops,
    bare,
    damaged_slots,
    empty_slots,
    encoders,
    harness,
    layouts,
    partition,
    speculative,
    threads,
)
from benchmarks.engine import load as loading
from benchmarks.evidence import (
    beyond,
    converged,
    converged_again,
    converged_files,
    converged_longer,
    converged_rates,
    feature_loss,
    gsm8k,
    int4_heads,
    levels,
    new_losses,
    new_numbers,
    one_shot,
    pareto,
    parity,
    parts,
    patterns,
    questions,
    seen_numbers,
    step_times,
    tuned_patterns,
)
from benchmarks.evidence import report as evidence
from benchmarks.isa import builds, glance
from benchmarks.isa import report as isa
from benchmarks.peers import mpt, report
from benchmarks.peers.store import Store
from benchmarks.serving import fuzz, siege
from benchmarks.serving import load as serving
from benchmarks.speech import accuracy as speech_accuracy
from benchmarks.speech import losses_report
from benchmarks.speech import speed as speech_speed
from benchmarks.training import (
    accuracy,
    allocators,
    cut_recipe,
    demo,
    distillation,
    filling,
    memory,
    mpt_path,
    padding,
    prune_memory,
    pruners,
    quantization,
    zero_matrix,
)
from benchmarks.translation import glance as translation_glance
from benchmarks.translation import report as translation_report
from benchmarks.translation import speed as translation_speed
from cutwork.plan import ops

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARKED = re.compile(r"(<!-- table: (?P<name>[^>]+?) -->\n).*?(<!-- end of table -->)", re.DOTALL)


@dataclass(frozen=True)
class Table:
    """`make` gets the contents of `files` (names in results/, without .json). `told_on`: the section of docs/results
    that says where they come from, if this table does not."""

    make: Callable[..., str]
    files: tuple[str, ...]
    told_on: str = ""

    def markdown(self, page: Path) -> str:
        results = [load(f"{name}.json") for name in self.files]
        made = self.make(*results).rstrip()
        if self.told_on:
            return f"{made}\n\n[Machines, commands and commits]({_link(self.told_on, page)}).\n"
        sources = [source(result, name, page) for result, name in zip(results, self.files, strict=True)]
        return f"{made}\n\n{'. '.join(sources)}.\n"


_PEERS = {"Zen 5": "peers_zen5", "Sapphire Rapids or later": "peers_amx"}  # by generation; else of Zen 4


def _of(result: dict[str, Any], table: Callable[..., str], **options: Any) -> str:
    """A table of the peers' store, of which the result is only where it comes from."""
    name = _PEERS.get(result["provenance"]["processor"]["generation"], "peers")
    return table(Store.open(RESULTS / f"{name}.json"), **options)


def _document(result: dict[str, Any]) -> str:
    return _of(result, lambda store: "\n".join(report.document(store)).partition("\n\n")[2])


TABLES = {
    "demo": Table(demo.table, ("demo",)),
    "smollm2-gsm": Table(demo.table, ("smollm2-gsm",)),
    "demo, one thread": Table(demo.one_thread_table, ("demo_one_thread",)),
    "demo, Zen 4": Table(demo.table, ("demo_zen4",)),
    "demo, gate": Table(demo.gate_table, ("demo_gate",)),
    "filling": Table(filling.table, ("filling",)),
    "feature loss, choices": Table(feature_loss.choices, ("feature_loss",)),
    "feature loss": Table(feature_loss.table, ("feature_loss",)),
    "step times": Table(step_times.table, ("step_times",)),
    "new losses": Table(new_losses.table, ("new_losses",)),
    "new losses, verdicts": Table(new_losses.verdicts, ("new_losses",)),
    "new numbers": Table(new_numbers.table, ("new_numbers",)),
    "new numbers, secondary": Table(new_numbers.secondary, ("new_numbers",)),
    "new numbers, parts": Table(partial(parts.table, of=parts.NEW_NUMBERS), ("parts",)),
    "converged, steps": Table(partial(parts.by_steps, of=parts.CONVERGED), ("parts",)),
    "converged rates, steps": Table(partial(parts.by_steps, of=parts.CONVERGED_RATES), ("parts",)),
    "new numbers, pareto": Table(pareto.table, ("pareto_new_numbers",)),
    "new numbers, glance": Table(pareto.glance, ("pareto_new_numbers",)),
    "new numbers, verdicts": Table(new_numbers.verdicts, ("new_numbers", "pareto_new_numbers")),
    "int4 heads": Table(int4_heads.table, ("int4_heads",)),
    "int4 heads, pareto": Table(pareto.table, ("pareto_int4_heads",)),
    "int4 heads, verdicts": Table(int4_heads.verdicts, ("int4_heads", "pareto_int4_heads")),
    "gsm8k": Table(gsm8k.table, ("gsm8k",)),
    "gsm8k, glance": Table(gsm8k.glance, ("gsm8k",)),
    "gsm8k, verdicts": Table(gsm8k.verdicts, ("gsm8k",)),
    "harness": Table(harness.table, ("harness",)),
    "seen numbers": Table(seen_numbers.table, ("seen_numbers",)),
    "engines": Table(partial(_of, table=report.overview, shape="1.1b"), ("peers",)),
    "engines, 7b": Table(partial(_of, table=report.overview, shape="7b"), ("peers",)),
    "engines, amx": Table(partial(_of, table=report.overview, shape="1.1b"), ("peers_amx",)),
    "engines, zen5": Table(partial(_of, table=report.overview, shape="1.1b"), ("peers_zen5",)),
    "engines, zen5, 2.7b": Table(partial(_of, table=report.overview, shape="2.7b"), ("peers_zen5",)),
    "zeros": Table(partial(_of, table=report.zeros_table), ("peers",)),
    "zeros, zen5": Table(partial(_of, table=report.zeros_table), ("peers_zen5",)),
    "single layers": Table(lambda _: report.layers_table(Store.open(RESULTS / "layers.json")), ("layers",)),
    "avx2": Table(partial(_of, table=report.avx2_table), ("peers_zen5",)),
    "all cells, zen4": Table(_document, ("peers",)),
    "all cells, zen5": Table(_document, ("peers_zen5",)),
    "instruction sets, brief": Table(glance.brief, glance.FILES, told_on="instruction-sets.md#at-a-glance"),
    "instruction sets, glance": Table(glance.table, glance.FILES),
    "instruction sets, Zen 4": Table(isa.table, ("isa_zen4",)),
    "instruction sets, Zen 4, targets": Table(isa.targets_table, ("isa_zen4",)),
    "instruction sets, Zen 4, before": Table(isa.table, ("isa_zen4_before",)),
    "instruction sets, Zen 5": Table(isa.table, ("isa_zen5",)),
    "instruction sets, Zen 5, targets": Table(isa.targets_table, ("isa_zen5",)),
    "instruction sets, AMX": Table(isa.table, ("isa_amx",)),
    "instruction sets, AMX, targets": Table(isa.targets_table, ("isa_amx",)),
    "instruction sets, with AMX and without": Table(isa.table, ("isa_amx_vnni",)),
    "builds, Zen 4": Table(builds.table, ("builds_zen4",)),
    "builds, Zen 5": Table(builds.table, ("builds_zen5",)),
    "builds, reordered": Table(builds.table, ("builds_reordered",)),
    "builds, int4": Table(builds.table, ("builds_int4",)),
    "builds, int4, older": Table(builds.table, ("builds_int4_older",)),
    "builds, fetched": Table(builds.table, ("builds_fetch",)),
    "arm loops": Table(arm_loops.table, ("arm_loops",)),
    "empty slots": Table(empty_slots.table, ("empty_slots",)),
    "builds, uneven": Table(builds.table, ("builds_uneven",)),
    "builds, AMX": Table(builds.table, ("builds_amx",)),
    "instruction sets": Table(isa.table, ("isa",)),
    "instruction sets, VNNI alone": Table(isa.table, ("isa_vnni",)),
    "avx512 anew": Table(isa.table, ("isa_avx512",)),
    "avx512 anew, targets": Table(isa.targets_table, ("isa_avx512",)),
    "instruction sets, targets": Table(isa.targets_table, ("isa",)),
    "encoders": Table(encoders.table, ("encoders",)),
    "promises": Table(promises.table, ("promises",)),
    "promises, unseen": Table(promises.table, ("promises_unseen",)),
    "drafts": Table(drafts.table, ("drafts",)),
    "drafts, qwen": Table(drafts.table, ("drafts_qwen",)),
    "choices, advantage": Table(advantage.advantage_table, ("choices",)),
    "choices, judged": Table(choices.table, ("choices_judged",)),
    "choices, judged, verdicts": Table(choices.verdicts, ("choices_judged",)),
    "choices, judged, advantage": Table(advantage.advantage_table, ("choices_judged",)),
    "choices, heads": Table(choices.table, ("choices_heads",)),
    "choices, heads, verdicts": Table(choices.verdicts, ("choices_heads",)),
    "choices, heads, advantage": Table(advantage.advantage_table, ("choices_heads",)),
    "choices, converged": Table(choices.table, ("choices_converged_decode",)),
    "choices, converged, verdicts": Table(choices.verdicts, ("choices_converged_decode",)),
    "choices, converged, advantage": Table(advantage.advantage_table, ("choices_converged_decode",)),
    "choices, history": Table(history.history_table, tuple(history.PREDICTED)),
    "choices, trained": Table(choices.table, ("choices_trained",)),
    "choices, trained, verdicts": Table(choices.verdicts, ("choices_trained",)),
    "choices, qwen": Table(choices.table, ("choices_qwen",)),
    "choices, qwen, advantage": Table(advantage.advantage_table, ("choices_qwen",)),
    "choices, qwen, verdicts": Table(choices.verdicts, ("choices_qwen",)),
    "prices": Table(prices.table, ("prices",)),
    "prices, amx": Table(prices.table, ("prices_amx",)),
    "token weights": Table(token_weights.table, ("token_weights",)),
    "frontier": Table(frontier.frontier_table, ("choices_judged",)),
    "corrections": Table(low_rank.table, ("low_rank",)),
    "corrections, left": Table(low_rank.left_table, ("low_rank",)),
    "embedding quality": Table(embedding_quality.table, ("embedding_quality",)),
    "embedding speed": Table(embedding_speed.table, ("embedding_speed",)),
    "loading": Table(loading.table, ("load",)),
    "threads, decode": Table(threads.decode_table, ("threads",)),
    "threads, context": Table(threads.context_table, ("threads_context",)),
    "threads, context, before": Table(threads.context_table, ("threads",)),
    "partition": Table(partition.table, ("partition",)),
    "mpt": Table(mpt.table, ("mpt_speed",)),
    "accuracy": Table(accuracy.table, ("accuracy",)),
    "distillation": Table(distillation.table, ("distillation",)),
    "evidence, choices": Table(evidence.choices, ("evidence_short",)),
    "evidence": Table(evidence.table, ("evidence_short",)),
    "evidence, unseen": Table(partial(evidence.table, split="unseen"), ("evidence_short",)),
    "evidence, losses": Table(evidence.comparisons, ("evidence_short",)),
    "evidence, teacher": Table(evidence.distances, ("evidence_short",)),
    "longer, choices": Table(evidence.choices, ("evidence_longer",)),
    "longer": Table(evidence.table, ("evidence_longer",)),
    "longer, teacher": Table(evidence.distances, ("evidence_longer",)),
    "longer, files": Table(evidence.files, ("evidence_longer",)),
    "longer, verdicts": Table(evidence.after_longer, ("evidence_longer", "pareto_longer")),
    "patterns": Table(patterns.table, ("patterns",)),
    "parity": Table(parity.table, ("parity",)),
    "parity, questions": Table(parity.table, ("parity_task",)),
    "one shot": Table(one_shot.table, ("one_shot",)),
    "patterns, tuned": Table(tuned_patterns.table, ("tuned_patterns",)),
    "levels": Table(levels.table, ("levels",)),
    "levels, verdicts": Table(levels.verdicts, ("levels",)),
    "converged rates, choices": Table(converged_rates.choices, ("converged_rates",)),
    "converged rates": Table(converged_rates.table, ("converged_rates",)),
    "converged rates, verdicts": Table(converged_rates.verdicts, ("converged_rates",)),
    "questions": Table(questions.table, ("questions",)),
    "converged, files": Table(converged_files.table, ("converged_files",)),
    "converged, pareto": Table(pareto.table, ("pareto_converged",)),
    "converged, pays": Table(converged_files.verdicts, ("pareto_converged",)),
    "converged longer": Table(converged_files.table, ("converged_longer",)),
    "converged longer, pareto": Table(pareto.table, ("pareto_converged_longer",)),
    "converged longer, pays": Table(converged_files.verdicts, ("pareto_converged_longer",)),
    "converged longer, verdicts": Table(converged_longer.verdicts, ("converged_longer",)),
    "converged again": Table(converged_files.table, ("converged_again",)),
    "converged again, verdicts": Table(converged_again.verdicts, ("converged_again",)),
    "converged": Table(converged.table, ("converged",)),
    "converged, verdicts": Table(converged.verdicts, ("converged",)),
    "beyond": Table(beyond.table, ("beyond",)),
    "evidence, verdicts": Table(evidence.verdicts, ("evidence_short", "pareto")),
    "pareto": Table(pareto.table, ("pareto",)),
    "longer, pareto": Table(pareto.table, ("pareto_longer",)),
    "mpt path": Table(mpt_path.table, ("mpt_path",)),
    "cut recipe": Table(cut_recipe.table, ("cut_recipe",)),
    "memory": Table(memory.table, ("memory",)),
    "allocators": Table(allocators.table, ("allocators",)),
    "bare": Table(bare.table, ("bare",)),
    "layouts": Table(layouts.table, ("layouts",)),
    "padding": Table(padding.table, ("padding",)),
    "pruners": Table(pruners.table, ("pruners",)),
    "prune memory": Table(prune_memory.table, ("prune_memory",)),
    "zero matrix": Table(zero_matrix.table, ("zero_matrix",)),
    "quantization": Table(quantization.table, ("quantization", "quantization_perplexity")),
    "speculative": Table(speculative.table, ("speculative",)),
    "draft auto": Table(speculative.table, ("draft_auto",)),
    "translation, choices": Table(translation_report.choices, ("translation_losses",)),
    "translation quality": Table(translation_report.table, ("translation_losses",)),
    "translation, losses": Table(translation_report.losses, ("translation_losses",)),
    "translation, glance": Table(translation_glance.table, ("translation_speed", "translation_speed_before")),
    "translation speed": Table(translation_speed.table, ("translation_speed",)),
    "translation speed, before": Table(translation_speed.table, ("translation_speed_before",)),
    "translation speed, zen5": Table(translation_speed.table, ("translation_speed_zen5",)),
    "whisper ten minutes": Table(speech_speed.table, ("whisper_ten_minutes",)),
    "whisper losses, choices": Table(losses_report.choices, ("whisper_losses_0",)),
    "whisper losses": Table(losses_report.table, ("whisper_losses_0",)),
    "whisper losses, differences": Table(losses_report.differences, ("whisper_losses_0",)),
    "whisper speed": Table(speech_speed.table, ("whisper_speed", "whisper-tiny.en-speech")),
    "whisper-tiny.en": Table(speech_accuracy.table, ("whisper-tiny.en-speech",)),
    "whisper-base": Table(speech_accuracy.table, ("whisper-base-speech",)),
    "fuzz": Table(fuzz.table, ("fuzz",)),
    "damaged slots": Table(damaged_slots.table, ("damaged_slots",)),
    "siege": Table(siege.table, ("siege",)),
    "serving": Table(serving.table, ("serving",)),
}


def source(result: dict[str, Any], name: str, page: Path) -> str:
    """The line below a table: machine, command, date, commit, file."""
    about = result["provenance"]
    file = os.path.relpath(RESULTS / f"{name}.json", page.parent)
    commit = f"commit {about['commit'][:7]}" + ("" if about["clean"] in (True, None) else ", changed")
    kind = ", provenance put together later" if about.get("reconstructed") else ""
    command = shlex.join(_shown(about["command"]))
    return f"{where(result)}; `{command}`, {about['date'][:10]}, {commit}{kind}; [json]({file})"


def _shown(command: Sequence[str]) -> Iterator[str]:
    """A command without the folders that it left things in: they were its caller's."""
    words = iter(command)
    for word in words:
        if word == "--results" or (word == "--output" and "--results" in command):
            next(words, None)
        else:
            yield word


def generated(name: str, page: Path) -> str:
    """What stands under a marker. Raises SystemExit for a name that nothing makes."""
    if name == "ops":
        return ops.table() + "\n"
    if name == "claims":
        return _claims(claims.IN_README if page == ROOT / "README.md" else claims.CLAIMS, page)
    if name.startswith("claim "):
        return claims.CLAIMS[name.removeprefix("claim ")][0]() + "\n"
    if name not in TABLES:
        raise SystemExit(f"{page} asks for a table {name!r}; there are: {', '.join(TABLES)}")
    return TABLES[name].markdown(page)


def _claims(names: Iterable[str], page: Path) -> str:
    lines = []
    for say, where_shown in map(claims.CLAIMS.__getitem__, names):
        lines.append(f"- {say()} [More]({_link(where_shown, page)})\n")
    return "".join(lines)


def _link(to: str, page: Path) -> str:
    """From a page to one of docs/results."""
    return os.path.relpath(ROOT / "docs" / "results" / to, page.parent)


def filled(page: Path) -> str:
    """The page with all its tables as the results have them now."""
    return MARKED.sub(lambda found: found[1] + generated(found["name"], page) + found[3], page.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is behind its results")
    options = parser.parse_args()
    now = {page: filled(page) for page in PAGES}
    behind = [page for page, text in now.items() if text != page.read_text()]
    for page in behind:
        print(page.relative_to(ROOT))
        if not options.check:
            page.write_text(now[page])
    sys.exit(1 if options.check and behind else 0)


if __name__ == "__main__":
    main()
