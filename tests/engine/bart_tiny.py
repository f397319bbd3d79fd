"""Tiny random models of BART's family."""

from tests.engine.tiny import torch, transformers
from tests.text_to_text import VOCABULARY

SMALL = {
    "vocab_size": VOCABULARY,
    "d_model": 48,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 6,
    "encoder_ffn_dim": 80,
    "decoder_ffn_dim": 96,
    "max_position_embeddings": 128,
    "decoder_start_token_id": 2,
    "eos_token_id": 2,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "forced_eos_token_id": None,
}
VARIANTS = {
    "bart": ("bart", {}),
    "bart-scaled": ("bart", {"scale_embedding": True, "activation_function": "relu"}),
    "mbart": ("mbart", {"scale_embedding": True}),
    "marian": ("marian", {"scale_embedding": True, "activation_function": "swish"}),
    "m2m-100": ("m2m_100", {}),
    "m2m-100-unscaled": ("m2m_100", {"scale_embedding": False, "pad_token_id": 0}),
}
FAMILIES = {family for family, _ in VARIANTS.values()}


def make(variant: str):
    """A model whose weights are large enough that every part matters to the logits."""
    family, changes = VARIANTS[variant]
    torch.manual_seed(1)
    config = transformers.AutoConfig.for_model(family, **{**SMALL, **changes})
    model = transformers.AutoModelForSeq2SeqLM.from_config(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            elif not (family == "marian" and "embed_positions" in name):  # which are computed
                parameter.normal_(0.0, 0.3 if parameter.ndim == 1 else parameter.shape[1] ** -0.5)
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_()
    model.generation_config.update(
        decoder_start_token_id=2, eos_token_id=None, pad_token_id=1, forced_eos_token_id=None
    )
    return model
