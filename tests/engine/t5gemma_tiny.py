"""Tiny random models of T5Gemma."""

from tests.engine.tiny import torch, transformers
from tests.text_to_text import VOCABULARY

SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "query_pre_attn_scalar": 20,
    "sliding_window": 7,
    "attn_logit_softcapping": 2.0,  # so low that they bend most scores and logits of a tiny model
    "final_logit_softcapping": 3.0,
    "bos_token_id": 2,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
# What tells encoder and decoder from SMALL, and the whole.
VARIANTS = {
    "t5gemma": ({}, {}, {}),
    "t5gemma-uneven": (
        {"attn_logit_softcapping": None, "sliding_window": 12},
        {"hidden_size": 36, "intermediate_size": 96, "num_hidden_layers": 2, "num_key_value_heads": 3},
        {},
    ),
    "t5gemma-untied-biases": (
        {"attention_bias": True, "layer_types": ["full_attention"] * 3},
        {"attention_bias": True, "final_logit_softcapping": None},
        {"tie_word_embeddings": False},
    ),
}
FAMILIES = {"t5gemma"}


def make(variant: str):
    """A model whose weights are large enough that every part matters to the logits."""
    encoder, decoder, whole = VARIANTS[variant]
    torch.manual_seed(1)
    config = transformers.T5GemmaConfig(
        encoder={**SMALL, **encoder}, decoder={**SMALL, **decoder}, vocab_size=VOCABULARY, **whole
    )
    config._attn_implementation = config.encoder._attn_implementation = config.decoder._attn_implementation = "eager"
    model = transformers.T5GemmaForConditionalGeneration(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(-0.5, 0.5)
            else:
                parameter.normal_(0.0, 0.3 if parameter.ndim == 1 else parameter.shape[1] ** -0.5)
    model.generation_config.update(decoder_start_token_id=2, eos_token_id=None, pad_token_id=1)
    return model
