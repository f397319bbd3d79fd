"""A tiny Whisper with its tokenizer, and transformers' model as the decoder that transcription talks to."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from cutwork.engine.decoding.logits import log_softmax
from cutwork.engine.speech.decoder import Answer, Process, Search

torch.set_num_threads(1)

WINDOW = 100  # frames: one second
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
END = len(LETTERS)
LANGUAGES = ("en", "de", "fr")
_CACHE = "cache" if "cache" in Seq2SeqLMOutput.__dataclass_fields__ else "past_key_values"  # by transformers' version


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as tokens, then Whisper's special ones; times have no names, as in some real tokenizers."""
    bytewise = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(LETTERS)}, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    names = ["endoftext", "startoftranscript", *LANGUAGES, "translate", "transcribe", "startoflm", "startofprev"]
    special = [f"<|{name}|>" for name in [*names, "nospeech", "notimestamps"]]
    bytewise.add_special_tokens([AddedToken(name, special=True) for name in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=bytewise, eos_token="<|endoftext|>", unk_token="<|endoftext|>", bos_token="<|endoftext|>"
    )


def save(directory: Path, seed: int = 0, multilingual: bool = True) -> Path:
    """A random Whisper of one-second windows as a checkpoint."""
    torch.manual_seed(seed)
    words = tokenizer()
    find = words.convert_tokens_to_ids
    without = find("<|notimestamps|>")
    config = WhisperConfig(
        vocab_size=without + 1 + WINDOW // 2 + 1,
        num_mel_bins=16,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_source_positions=WINDOW // 2,
        max_target_positions=64,
        init_std=0.2,
        decoder_start_token_id=find("<|startoftranscript|>"),
        pad_token_id=END,
        bos_token_id=END,
        eos_token_id=END,
    )
    model = WhisperForConditionalGeneration(config)
    model.save_pretrained(directory)
    settings = {
        "max_length": 64,
        "decoder_start_token_id": find("<|startoftranscript|>"),
        "pad_token_id": END,
        "bos_token_id": END,
        "eos_token_id": END,
        "no_timestamps_token_id": without,
        "prev_sot_token_id": find("<|startofprev|>"),
        "max_initial_timestamp_index": 10,
        "is_multilingual": multilingual,
        "suppress_tokens": [5, find("<|startoftranscript|>")],
        "begin_suppress_tokens": [3, END],
        "alignment_heads": [[0, 1], [1, 0], [1, 3]],
    }
    if multilingual:
        settings["lang_to_id"] = {f"<|{code}|>": find(f"<|{code}|>") for code in LANGUAGES}
        settings["task_to_id"] = {task: find(f"<|{task}|>") for task in ("transcribe", "translate")}
    (directory / "generation_config.json").write_text(json.dumps(settings))
    words.save_pretrained(directory)
    WhisperFeatureExtractor(feature_size=16, chunk_length=1).save_pretrained(directory)
    return directory


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """Tones that come and go."""
    draw = np.random.default_rng(seed)
    time = np.arange(round(seconds * 16_000)) / 16_000
    waves = sum(
        draw.uniform(0.05, 0.3)
        * np.sin(2 * np.pi * draw.uniform(100, 3000) * time)
        * (np.sin(draw.uniform(1, 9) * time) > 0)
        for _ in range(4)
    )
    return (waves + 0.003 * draw.standard_normal(len(time))).astype(np.float32)


class Torch:
    """transformers' Whisper as a `Decoder`: greedy answers and samples."""

    def __init__(self, model: Any) -> None:
        self.model, self.encoded = model.eval(), 0

    @torch.inference_mode()
    def encode(self, spectrogram: np.ndarray) -> Any:
        self.encoded += 1
        return self.model.model.encoder(torch.from_numpy(np.ascontiguousarray(spectrogram))[None])[0]

    @torch.inference_mode()
    def logits(self, memory: Any, prompt: Sequence[int]) -> np.ndarray:
        return self._step(memory, prompt, None).logits[0, -1].numpy()

    @torch.inference_mode()
    def answer(self, memory: Any, prompt: Sequence[int], search: Search, process: Process) -> Answer:
        assert search.beams == 1
        end, room = self.model.config.eos_token_id, self.model.config.max_target_positions
        found = []
        for sample in range(search.samples):
            random = np.random.default_rng((search.seed or 0, sample))
            outputs = self._step(memory, prompt, None)
            tokens: list[int] = []
            total = 0.0
            while True:
                scores = outputs.logits[0, -1].numpy().copy()
                process(scores, tokens)
                chances = log_softmax(scores)
                if search.temperature:
                    weights = np.exp(log_softmax(scores / np.float32(search.temperature)).astype(np.float64))
                    token = int(random.choice(len(scores), p=weights / weights.sum()))
                else:
                    token = int(scores.argmax())
                total += float(chances[token])
                if token == end:
                    break
                tokens.append(token)
                if len(prompt) + len(tokens) >= room or len(tokens) == search.max_new_tokens:
                    break
                outputs = self._step(memory, [token], outputs[_CACHE])
            found.append(Answer(tokens, total / (len(tokens) + 1)))
        return max(found, key=lambda answer: answer.average)

    @torch.inference_mode()
    def attention(
        self, memory: Any, tokens: Sequence[int], heads: Sequence[tuple[int, int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        self.model.config._attn_implementation = "eager"
        outputs = self.model(
            encoder_outputs=BaseModelOutput(memory), decoder_input_ids=torch.tensor([tokens]), output_attentions=True
        )
        weights = np.stack([outputs.cross_attentions[layer][0, head].numpy() for layer, head in heads])
        return weights, outputs.logits[0].numpy()

    def _step(self, memory: Any, tokens: Sequence[int], cache: Any) -> Any:
        return self.model(
            encoder_outputs=BaseModelOutput(memory),
            decoder_input_ids=torch.tensor([list(tokens)]),
            use_cache=True,
            **{_CACHE: cache},
        )
