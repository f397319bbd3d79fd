"""A model card that is evidence: what was measured, on what, and where the zeros are."""

from collections import defaultdict
from collections.abc import Mapping
from math import prod
from typing import Any

import yaml

from cutwork.architectures import kind_of
from cutwork.measure.interval import wilson
from cutwork.measure.report.tables import called, other_cells, other_headings
from cutwork.pack.manifest import Manifest, WeightEntry
from cutwork.store.block_names import of_any_block

_TASKS = {
    "text": "text-generation",
    "speech": "automatic-speech-recognition",
    "translation": "translation",
    "embedding": "feature-extraction",
}
_USES = {
    "speech": "cutwork transcribe {} talk.wav",
    "translation": 'cutwork translate {} "Your sentence"',
    "embedding": "cutwork embed {} texts.jsonl -o vectors.npy",
}
_CLASSES = {
    "text": "AutoModelForCausalLM",
    "speech": "AutoModelForSpeechSeq2Seq",
    "translation": "AutoModelForSeq2SeqLM",
    "embedding": "AutoModel",
}


def model_card(
    name: str,
    base: str | None,
    results: dict[str, Any],
    sparse: str,
    manifest: Manifest,
    recipe_hash: str,
    *,
    template: bool,
    examples: bool,
) -> str:
    """The README.md of a repository of the Hub, called `name`, as Markdown.

    base: the Hub's name of the model that it was made from, if it has one. results: what the run measured. sparse:
    which of its models is given away, packed as `manifest` says. template, examples: see `commands`.
    """
    rows = {row["name"]: row for row in results["variants"]}
    kind = kind_of(manifest.config)
    settings, machine = results["settings"], results["machine"]
    front = {
        **({"base_model": base} if base else {}),
        "library_name": "transformers",
        "pipeline_tag": _TASKS[kind],
        "tags": ["cutwork", "sparse", "pruned"],
    }
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    asked = rows[sparse]["samples"]
    compare = settings["compare"]
    first = "its last" if (settings.get("prune") or {}).get("levels") else "any"
    learned = (settings["task"].get("options") or {}).get("train", results["task"])  # a table is called as its test is
    origin = f"[{base}](https://huggingface.co/{base})" if base else f"`{settings['model']}`"
    return f"""---
{yaml.safe_dump(front, sort_keys=False).strip()}
---

# {name}

{origin}, fine-tuned on {learned}, with {rows[sparse]["sparsity"]:.0%} of the weights in its blocks zero. Made
with Cutwork, which prunes, fine-tunes with the zeros held in place, and runs the result on CPUs.

## What was measured

{_measured(results)}

{asked} held-out questions of {results["task"]}, the same for all models; intervals are Wilson's, of 95%, and do not say
how much another seed would change. `dense` is the model before pruning, `pruned` after it and before {first}
fine-tuning, `sparse` after both. Speed: one sequence, {compare["prompt_tokens"]} tokens read and
{compare["decode_tokens"]} written, medians of {compare["repeats"]}. {machine["cpu"]}, {machine["isa"]}, {threads};
`cutwork run recipe.yaml`, {results["date"]}.

## Where the zeros are

{_zeros(manifest.weights)}

<details><summary>Every layer</summary>

{_layers(manifest.weights)}

</details>

## How it was made

`recipe.yaml` holds every setting; its hash is `{recipe_hash}`. `results.json` holds what was measured.

## Use it

```python
from transformers import {_CLASSES[kind]}, AutoTokenizer

model = {_CLASSES[kind]}.from_pretrained("{name}")  # plain weights; {_zeros_in_them(settings)}
```

{_commented(commands(name, kind, template=template, examples=examples))}
"""


def _zeros_in_them(settings: Mapping[str, Any]) -> str:
    if (settings.get("quantize") or {}).get("sparsity"):
        return "the packed model has more zeros, made while it was rounded"
    return "the zeros are in them"


def commands(name: str, kind: str, *, template: bool, examples: bool) -> dict[str, str]:
    """What to type to use the repository called `name`, each with what it does; whether its tokenizer has a template
    for conversations, and whether it holds examples of its task."""
    plain = "the plain weights, packed in memory"
    if kind != "text":
        return {_USES[kind].format(name): plain}
    demo = f"cutwork demo hf:{name}" + ("" if examples else ' -q "Your question"')
    return {
        f"cutwork chat {name}" if template else f'cutwork generate {name} "Your prompt"': plain,
        demo: "the packed dense and sparse models side by side",
    }


def _commented(lines: Mapping[str, str]) -> str:
    width = max(map(len, lines))
    return "\n".join(f"    {command:<{width}}    # {comment}" for command, comment in lines.items())


def _measured(results: dict[str, Any]) -> str:
    names = [
        "model",
        "zeros",
        "accuracy (95% interval)",
        *other_headings([results]),
        "perplexity",
        "disk MB",
        "memory MB",
    ]
    names += ["prefill tok/s", "decode tok/s"]
    lines = [f"| {' | '.join(names)} |", "|---" + "|--:" * (len(names) - 1) + "|"]
    for row in results["variants"]:
        low, high = wilson(row["right"], row["samples"])
        cells = [
            called(results, row["name"]),
            f"{row['sparsity']:.0%}",
            f"{row['accuracy']:.1%} ({low:.1%} to {high:.1%})",
            *other_cells([results], row),
            "–" if row["perplexity"] is None else f"{row['perplexity']:.2f}",
            f"{row['disk_bytes'] / 1e6:.0f}",
            f"{row['memory_bytes'] / 1e6:.0f}",
            f"{row['prefill_tokens_per_second']:.0f}",
            f"{row['decode_tokens_per_second']:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _zeros(weights: Mapping[str, WeightEntry]) -> str:
    """One row for each kind of weight: those whose names differ in the block's number only."""
    kinds: dict[tuple[str, str, str], list[WeightEntry]] = defaultdict(list)
    for name, entry in weights.items():
        if len(entry.shape) > 1:
            kinds[of_any_block(name), _shape(entry), _stored(entry)].append(entry)
    lines = ["| weight | layers | shape | zeros | stored as |", "|---|--:|--:|--:|---|"]
    for (name, shape, stored), entries in kinds.items():
        found = sorted({f"{_zero(entry):.1%}" for entry in entries}, key=lambda text: float(text[:-1]))
        zeros = found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}"
        lines.append(f"| `{name}` | {len(entries)} | {shape} | {zeros} | {stored} |")
    return "\n".join(lines)


def _layers(weights: Mapping[str, WeightEntry]) -> str:
    lines = ["| weight | shape | zeros | stored as |", "|---|--:|--:|---|"]
    for name, entry in weights.items():
        if len(entry.shape) > 1:
            lines.append(f"| `{name}` | {_shape(entry)} | {_zero(entry):.2%} | {_stored(entry)} |")
    return "\n".join(lines)


def _zero(entry: WeightEntry) -> float:
    return 1 - entry.nonzeros / max(1, prod(entry.shape))


def _shape(entry: WeightEntry) -> str:
    return " × ".join(map(str, entry.shape))


def _stored(entry: WeightEntry) -> str:
    kept = f", {entry.keep} of 16" if entry.keep else ""
    scales = f", a scale for {entry.group} columns" if entry.group else ""
    return f"{entry.encoding} {entry.dtype}{kept}{scales}"
