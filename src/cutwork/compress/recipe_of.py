"""From a choice to the recipe that makes it."""

from collections import Counter
from pathlib import Path

import yaml

from cutwork.compress.candidates import parse
from cutwork.compress.menu import HEAD, Choice
from cutwork.errors import CutworkError
from cutwork.recipe import PackSettings, PruneSettings, QuantizeSettings, Recipe
from cutwork.store.atomic import write_atomically

MADE_BY = "by cutwork compress"  # in the note of every recipe that is written


def recipe_of(base: Recipe, choice: Choice) -> Recipe:
    """The base recipe with the choice's patterns, rates and number formats; how it prunes and trains stays.

    What no linear needs is left out: of bits alone nothing is pruned, of zeros alone nothing quantised.
    """
    chosen = {name: parse(label) for name, label in choice.labels.items() if name != HEAD}
    pruned = {name: each for name, each in chosen.items() if each.sparsity}
    decided = {"sparsity", "pattern", "modules", "patterns", "rates", "owl_threshold", "owl_spread", "levels"}
    how = base.prune.model_dump(exclude_unset=True, exclude=decided)
    if pruned:
        rates = {name: each.sparsity for name, each in chosen.items() if ":" not in each.pattern}
        patterns = {name: each.pattern for name, each in pruned.items() if each.pattern != "unstructured"}
        how |= {"method": base.prune.method, "modules": rates, "patterns": patterns}
    else:
        how = {name: value for name, value in how.items() if name not in ("damping", "block_size", "token_weights")}
        how |= {"method": "magnitude", "sparsity": 0.0}
    counts = Counter(each.scheme for each in chosen.values() if each.scheme)
    head = parse(choice.labels[HEAD]).scheme if HEAD in choice.labels else None
    int4_head = head == "w4a16"  # which is not rounded while it is packed, as int8 is
    quantize = None
    if counts or int4_head:
        scheme = counts.most_common(1)[0][0] if counts else "w4a16"
        base_quantize = base.quantize or QuantizeSettings()
        chosen_here = {"scheme", "overrides", "sparsity", "ignore", "head"}
        if "w4a16" not in counts and not int4_head:
            chosen_here.add("group_size")
        settings = base_quantize.model_dump(exclude_unset=True, exclude=chosen_here)
        overrides = {name: each.scheme or "skip" for name, each in chosen.items() if each.scheme != scheme}
        settings |= {"head": "w4a16"} if int4_head else {}
        quantize = QuantizeSettings(**settings, scheme=scheme, overrides=overrides)
    stored = {"embedding": "i8"} if int4_head else {"head": "i8"} if head else {}
    return base.model_copy(
        update={
            "prune": PruneSettings(**how),
            "quantize": quantize,
            "pack": PackSettings.model_validate({"dtype": "bf16", **stored}),
        }
    )


def write_recipe(recipe: Recipe, file: Path, note: str) -> None:
    """Write a recipe with every setting in it, below a comment, which has MADE_BY in it."""
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, width=120)
    write_atomically(file, f"# {note}\n{text}")


def check_recipe_free(file: Path) -> None:
    """Raise CutworkError if there is a recipe that `write_recipe` did not write."""
    if file.exists() and MADE_BY not in file.read_text(encoding="utf-8", errors="replace").partition("\n")[0]:
        raise CutworkError(f"{file} is not from cutwork compress; move it away or choose another OUT")
