"""Every family goes through all stages: pruned, tuned, quantised and packed, it is what transformers makes of it."""

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from cutwork.architectures import build_plan
from cutwork.engine.model import Model
from cutwork.pack.pack import pack
from cutwork.prune.prune import prune
from cutwork.quantize.quantize import quantize
from cutwork.recipe import PruneSettings, QuantizeSettings, TuneSettings
from cutwork.store.block_names import in_block
from cutwork.torch_models.blocks import block_linears
from cutwork.tune.tune import tune
from tests.engine.tiny import VARIANTS, byte_level_tokenizer, make, relative, torch, torch_logits, transformers
from tests.torch_models.tiny import sums

FIRST = {family: variant for variant, (family, _) in reversed(VARIANTS.items())}
TOKENS = np.random.default_rng(0).integers(3, 260, 40)
QUIET = Console(quiet=True)


@pytest.mark.parametrize("family", sorted(FIRST))
def test_what_is_pruned_are_the_matrices_of_the_plan(family):
    model = make(FIRST[family])
    plan = build_plan(model.config.to_dict())
    renamed = {f"{name}.weight" for name in block_linears(model)}
    assert renamed == {name for name in plan.weights if in_block(name)}


@pytest.mark.parametrize("family", sorted(FIRST))
def test_all_stages(family, tmp_path: Path):
    dense, pruned, tuned, rounded = (tmp_path / name for name in ("dense", "pruned", "tuned", "rounded"))
    byte_level_tokenizer().save_pretrained(dense)
    make(FIRST[family], vocab_size=270).save_pretrained(dense)
    prune(dense, pruned, PruneSettings(method="magnitude", sparsity=0.6), console=QUIET)
    settings = TuneSettings(max_steps=2, batch_size=4, micro_batch_size=4, save_every=2, dtype="float32")
    tune(pruned, tuned, settings, sums(8), max_length=128, console=QUIET)
    quantize(tuned, rounded, QuantizeSettings(method="rtn"), console=QUIET)
    oracle = transformers.AutoModelForCausalLM.from_pretrained(tuned, dtype=torch.float32).eval()
    expected = torch_logits(oracle, TOKENS)
    with torch.no_grad():
        ids = oracle.generate(torch.tensor(TOKENS[None, :9]), max_new_tokens=20, do_sample=False, eos_token_id=None)
    for directory, tolerance in ((tuned, 1e-4), (rounded, 0.15)):
        pack(directory, directory / "packed")
        with Model.load(directory / "packed", threads=1, cache_bytes=1 << 22) as model:
            assert model.sparsity > 0.59
            assert relative(model.logits(TOKENS.tolist()), expected) < tolerance
            if directory is tuned:
                answer = model.generate(TOKENS[:9].tolist(), max_new_tokens=20, ignore_eos=True)
                assert answer.tokens == ids[0, 9:].tolist()
