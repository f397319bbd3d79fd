"""A GGUF file's vocabulary as the files of a Hugging Face tokenizer."""

import json
from pathlib import Path
from typing import Any

from cutwork.errors import CutworkError
from cutwork.store.gguf.file import GgufFile

_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
# Ways to split a text before merging, by `tokenizer.ggml.pre`, beside those that transformers knows.
_DIGITS = ("smollm",)  # numbers into digits before all else
_AS_GPT2 = ("gpt-2", "default")
_WHOLE_WORDS = ("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "tekken")  # a word that is a token stays one
# What ends a turn or a text though no key of the file says so, as llama.cpp knows it by its text.
_ENDS = ("<end_of_turn>", "<|eot_id|>", "<|im_end|>", "<|end|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>",
         "<EOT>", "_<EOT>", "<end_of_utterance>", "<|return|>", "<|call|>")  # fmt: skip
_HARMONY = ("<|return|>", "<|call|>")  # where there are both, `<|end|>` ends but a part of an answer
_CONTROL, _USER_DEFINED = 3, 4  # the types of tokens that are no text, and that are one wherever they stand in a text


def write_tokenizer(file: GgufFile, arch: str, directory: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json with the chat template, and which tokens end an answer.

    transformers builds it, as it does for its own reading of GGUF. Raises CutworkError if it cannot; nothing is written
    for a file without a vocabulary.
    """
    metadata = file.metadata
    tokens = metadata.get("tokenizer.ggml.tokens")
    if tokens is None:
        return
    special = {name: _token(metadata, tokens, key) for name, key in _SPECIAL.items()}
    try:
        core = _core(metadata, arch, special["bos_token"], _whole(metadata, tokens))
        core.save(str(directory / "tokenizer.json"))
    except Exception as error:  # transformers and tokenizers raise many kinds
        reason = " ".join(str(error).split())[:200]
        raise CutworkError(f"the tokenizer in {file.path} cannot be read: {reason}") from None
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    settings |= {name: token for name, token in special.items() if token is not None}
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        settings["chat_template"] = template
    (directory / "tokenizer_config.json").write_text(
        json.dumps(settings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    (directory / "generation_config.json").write_text(
        json.dumps({"eos_token_id": ending_tokens(metadata)}) + "\n", encoding="utf-8"
    )


def ending_tokens(metadata: dict[str, Any]) -> list[int]:
    """The tokens that end an answer: those that the file names, and those that do by their text."""
    ends = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    tokens, kinds = (metadata.get(f"tokenizer.ggml.{name}") for name in ("tokens", "token_type"))
    if isinstance(tokens, list) and isinstance(kinds, list):
        pairs = zip(tokens, kinds, strict=False)
        known = {token: at for at, (token, kind) in enumerate(pairs) if kind == _CONTROL and token in _ENDS}
        if known.keys() >= set(_HARMONY):
            known.pop("<|end|>", None)
        ends += known.values()
    return list(dict.fromkeys(end for end in ends if isinstance(end, int) and not isinstance(end, bool)))


def _token(metadata: dict[str, Any], tokens: Any, key: str) -> str | None:
    index = metadata.get(f"tokenizer.ggml.{key}_token_id")
    known = isinstance(tokens, list) and isinstance(index, int) and 0 <= index < len(tokens)
    return str(tokens[index]) if known else None


def _whole(metadata: dict[str, Any], tokens: Any) -> dict[int, bool]:
    """The tokens that no text is split into, and whether each is special: by its type, or as the file names it."""
    kinds = enumerate(metadata.get("tokenizer.ggml.token_type") or ())
    whole = {at: kind == _CONTROL for at, kind in kinds if kind in (_CONTROL, _USER_DEFINED) and at < len(tokens)}
    named = [key for key in _SPECIAL.values() if _token(metadata, tokens, key) is not None]
    return whole | {metadata[f"tokenizer.ggml.{key}_token_id"]: True for key in named}


def _core(metadata: dict[str, Any], arch: str, begin: str | None, whole: dict[int, bool]) -> Any:
    """The tokenizer of the tokenizers package, with the token that begins a text put there if the file says so."""
    from tokenizers import normalizers, pre_tokenizers, processors
    from transformers.integrations.gguf import gguf_tokenizer_mapping as theirs

    renames = theirs.GGUF_TOKENIZER_MAPPING["tokenizer"]
    given = {new: metadata[f"tokenizer.{old}"] for old, new in renames.items() if f"tokenizer.{old}" in metadata}
    sentencepiece, splits = given.get("tokenizer_type") == "llama", given.get("pre_tokenizer_type", "default")
    if not sentencepiece and splits not in (*_DIGITS, *_AS_GPT2, *theirs.GGUF_PRE_TOKENIZER_SPLITS):
        raise ValueError(f"it splits text as {splits!r}, which is not known")
    # Of the builders for sentencepiece's vocabularies, Phi-3's spells spaces as sentencepiece does.
    core, _ = theirs.convert_gguf_tokenizer("phi3" if sentencepiece and arch == "llama" else arch, given)
    tokens = given["tokens"]
    if given.get("tokenizer_type") == "gpt2":
        core = _as_spelled(core, tokens, whole)
    for index in (at for at, special in whole.items() if special):
        if core.token_to_id(tokens[index]) != index:
            raise ValueError(f"{tokens[index]!r} is not its token {index}; use the checkpoint that it was made from")
    if sentencepiece and given.get("add_prefix_space") is False:
        core.normalizer = normalizers.Replace(" ", "\u2581")
    if splits in _WHOLE_WORDS and not sentencepiece:
        core.model.ignore_merges = True
    if splits in _DIGITS:
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    # Where the file does not say, as llama.cpp has it: with splits like these words stay whole, too.
    begins = metadata.get("tokenizer.ggml.add_bos_token", sentencepiece or splits in _WHOLE_WORDS)
    if begins and begin is not None:
        at = core.token_to_id(begin)
        core.post_processor = processors.TemplateProcessing(
            single=f"{begin}:0 $A:0", pair=f"{begin}:0 $A:0 {begin}:1 $B:1", special_tokens=[(begin, at)]
        )
    elif not begins:
        core.post_processor = processors.ByteLevel(trim_offsets=False)
    return core


def _as_spelled(core: Any, tokens: list[str], whole: dict[int, bool]) -> Any:
    """A byte-level tokenizer of transformers' whose whole tokens are spelled as in the file, and that has no others.

    transformers writes characters outside of the bytes' alphabet, as DeepSeek's control tokens have them, in that
    alphabet, does not add those tokens, and adds GPT-2's end of text to every vocabulary.
    """
    from tokenizers import AddedToken, Tokenizer

    state = json.loads(core.to_str())
    vocabulary = {tokens[at] if at in whole else token: at for token, at in state["model"]["vocab"].items()}
    state["model"]["vocab"] = vocabulary
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in vocabulary]
    core = Tokenizer.from_str(json.dumps(state))
    core.add_tokens([AddedToken(tokens[at], special=special, normalized=False) for at, special in whole.items()])
    return core
