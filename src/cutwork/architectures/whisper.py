"""Whisper: an encoder of log-mel spectrograms and a decoder that writes what was said (arXiv 2212.04356)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cutwork.architectures.architecture import HEAD, Architecture
from cutwork.architectures.config import MAX_WIDTH, activation, flag, integer
from cutwork.architectures.lengths import absolute
from cutwork.errors import CutworkError
from cutwork.plan.builder import Buffer, Derived, Plan

_FRAMES = 2  # of the spectrogram per entry that the encoder makes of them
_EPS = 1e-5


def emit_encoder(p: Plan, config: Mapping[str, Any]) -> None:
    """The encoder: two convolutions of three frames, the second of which halves their number, then blocks.

    A row of the input is a pair of frames [2 · mels], so the first convolution is two linears: of the frames around the
    pair's first and around its second. It ends with the keys and values of the decoder's cross attention.
    """
    width, mels = _width(config, "encoder"), integer(config, "num_mel_bins", maximum=4096)
    heads, mlp = config["encoder_attention_heads"], integer(config, "encoder_ffn_dim", maximum=MAX_WIDTH)
    act = activation({"hidden_act": config.get("activation_function", "gelu")})
    pair = p.input(_FRAMES * mels)
    first, second = (p.slice(pair, pieces=1, width=mels, stride=mels, first=i * mels) for i in range(_FRAMES))
    kernel = _kernel("model.encoder.conv1", mels, width)
    even = p.unfold([(second, -1), (first, 0), (second, 0)])
    odd = p.unfold([(first, 0), (second, 0), (first, 1)])
    even, odd = (
        p.linear(x, "model.encoder.conv1", width, bias=True, activation="gelu", derived=kernel) for x in (even, odd)
    )
    around = p.unfold([(odd, -1), (even, 0), (odd, 0)])
    kernel = _kernel("model.encoder.conv2", width, width)
    x = p.linear(around, "model.encoder.conv2", width, bias=True, activation="gelu", derived=kernel)
    x = p.add_positions(x, "model.encoder.embed_positions", integer(config, "max_source_positions", maximum=1 << 20))
    for i in range(integer(config, "encoder_layers", maximum=1024)):
        layer = f"model.encoder.layers.{i}"
        q, k, v = _queries_keys_values(p, x, layer)
        a = p.self_attention(q, k, v, heads=heads)
        x = p.linear(a, f"{layer}.self_attn.out_proj", width, bias=True, residual=x)
        x = _feed_forward(p, x, layer, mlp, act)
    x = p.layer_norm(x, "model.encoder.layer_norm", _EPS)
    for i in range(integer(config, "decoder_layers", maximum=1024)):
        attention = f"model.decoder.layers.{i}.encoder_attn"
        k, v = p.linears(x, {f"{attention}.{n}_proj": width for n in "kv"}, bias=(False, True))
        p.kv_append(k, v, cache=i, heads=config["decoder_attention_heads"])


def emit(p: Plan, config: Mapping[str, Any]) -> None:
    """The decoder."""
    width, heads = _width(config, "decoder"), config["decoder_attention_heads"]
    vocabulary, mlp = (
        integer(config, "vocab_size", maximum=1 << 24),
        integer(config, "decoder_ffn_dim", maximum=MAX_WIDTH),
    )
    act = activation({"hidden_act": config.get("activation_function", "gelu")})
    x = p.embed("model.decoder.embed_tokens", vocabulary, width)
    x = p.add_positions(x, "model.decoder.embed_positions", integer(config, "max_target_positions", maximum=1 << 20))
    for i in range(integer(config, "decoder_layers", maximum=1024)):
        layer = f"model.decoder.layers.{i}"
        q, k, v = _queries_keys_values(p, x, layer)
        a = p.attention(q, k, v, cache=i, heads=heads, kv_heads=heads)
        x = p.linear(a, f"{layer}.self_attn.out_proj", width, bias=True, residual=x)
        h = p.layer_norm(x, f"{layer}.encoder_attn_layer_norm", _EPS)
        a = p.cross_attention(p.linear(h, f"{layer}.encoder_attn.q_proj", width, bias=True), cache=i, heads=heads)
        x = p.linear(a, f"{layer}.encoder_attn.out_proj", width, bias=True, residual=x)
        x = _feed_forward(p, x, layer, mlp, act)
    last = p.layer_norm(p.gather_rows(x), "model.decoder.layer_norm", _EPS)
    tied = flag(config, "tie_word_embeddings", True)
    p.logits(last, "model.decoder.embed_tokens" if tied else "lm_head", vocabulary)


def _queries_keys_values(p: Plan, x: Buffer, layer: str) -> tuple[Buffer, ...]:
    h = p.layer_norm(x, f"{layer}.self_attn_layer_norm", _EPS)
    return p.linears(h, {f"{layer}.self_attn.{n}_proj": x.width for n in "qkv"}, bias=(True, False, True))


def _feed_forward(p: Plan, x: Buffer, layer: str, width: int, act: str) -> Buffer:
    h = p.layer_norm(x, f"{layer}.final_layer_norm", _EPS)
    h = p.linear(h, f"{layer}.fc1", width, bias=True, activation=act)
    return p.linear(h, f"{layer}.fc2", x.width, bias=True, residual=x)


def _kernel(name: str, inputs: int, outputs: int) -> Derived:
    """A convolution's weight [outputs, inputs, 3] as that of a linear that reads three frames one after the other."""
    return Derived(
        f"{name}.weight",
        (outputs, inputs, 3),
        lambda stored: np.ascontiguousarray(stored.transpose(0, 2, 1)).reshape(outputs, 3 * inputs),
    )


def _width(config: Mapping[str, Any], stack: str) -> int:
    width = integer(config, "d_model", maximum=MAX_WIDTH // 3)
    heads = integer(config, f"{stack}_attention_heads", maximum=4096)
    if width % heads:
        raise CutworkError(f"config.json: d_model {width} is not a multiple of {stack}_attention_heads {heads}")
    return width


ARCHITECTURE = Architecture(
    "whisper",
    models="Whisper from tiny to large-v3 and turbo, multilingual and .en, Distil-Whisper",
    source="arXiv 2212.04356",
    decoder=emit,
    encoder=emit_encoder,
    kind="speech",
    context=absolute("max_target_positions"),
    inputs=absolute("max_source_positions"),
    embedding="model.decoder.embed_tokens.weight",
    renames=(("proj_out.weight", HEAD),),
    unread=(HEAD,),
    frames=_FRAMES,
)
