"""What tests of models with an encoder of text share: how one is saved and loaded, what transformers makes of it."""

from pathlib import Path

import numpy as np

from cutwork.engine.model import Model
from tests.engine.tiny import byte_level_tokenizer, torch

VOCABULARY = 300
INPUTS = [[*range(5, 5 + n), 2] for n in (1, 2, 9, 40, 33, 70)]
ANSWER = np.random.default_rng(0).integers(3, VOCABULARY, 30).tolist()


def save(model, directory: Path) -> Path:
    model.save_pretrained(directory)
    byte_level_tokenizer().save_pretrained(directory)
    return directory


def load(directory: Path, **options) -> Model:
    return Model.load(directory, **{"threads": 1, "cache_bytes": 1 << 23, **options})


def torch_logits(model, source, answer):
    """Logits float32 [len(answer), vocabulary] of an answer to a source, both token ids."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([answer])).logits[0].numpy()


def written(model, source, count, **options) -> list[int]:
    """`count` tokens that transformers writes, greedily or by beam search, without the one that it starts from."""
    options = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False, **options}
    with torch.no_grad():
        return model.generate(torch.tensor([source]), **options)[0, 1:].tolist()
