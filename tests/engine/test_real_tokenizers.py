"""Real tokenizers, and ones with the published rules of real families: what they are special in comes through.

The oracle is the tokenizers library on the same tokenizer.json, without what transformers wraps around it.
"""

import json
from pathlib import Path

import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from cutwork import Model
from cutwork.engine.chat.template import render_chat
from cutwork.engine.decoding.detokenize import Detokenizer
from cutwork.engine.tokenizer import encode, load_tokenizer
from cutwork.errors import CutworkError

TEXTS = [
    "In 2024 there were 1234567 of them, 3.14 each, and 12 more.",
    "  two spaces before, three   within, one behind ",
    "tabs\tand\n\nempty lines\r\n\r\n   \n end",
    "He'll say it's DON'T, they'VE",
    "数字是１２３，日本語のテキスト。한국어 텍스트",
    "👩‍👩‍👧‍👦 and 🙂🙂, 🇩🇪; naïve café, ﬁn, e\u0301",
    "\u00a0\u200b\u3000odd spaces",
    "<|im_start|>user\nhi<|im_end|> and <|endoftext|>",
    "<tool_call>{}</tool_call><extra_id_0></s> <|eot_id|>",
]
# As meta-llama and Qwen publish them in tokenizer.json.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TOOLS_TEMPLATE = """
{%- if tools %}{{ '<|im_start|>system\\n<tools>\\n' }}
  {%- for tool in tools %}{{ tool | tojson }}{{ '\\n' }}{% endfor %}{{ '</tools><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
  {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
CORPUS = Path(__file__).parents[2] / "LICENSE"


def byte_level(pattern: str, special: list[str], added: list[str], start: str | None) -> Tokenizer:
    """Byte-level BPE with a family's own splitting, taught on some English."""
    made = Tokenizer(models.BPE(ignore_merges=start is not None))
    if start is None:
        made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    numbers = ["2024 12 345 1234567 678 999"] * 20
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator([*CORPUS.read_text().split("\n"), *numbers], trainer)
    made.add_special_tokens(special)
    made.add_tokens([AddedToken(token, normalized=False) for token in added])
    if start is not None:
        made.post_processor = processors.TemplateProcessing(f"{start} $A", None, [(start, made.token_to_id(start))])
    return made


def llama3() -> tuple[Tokenizer, dict]:
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    made = byte_level(LLAMA3, special, [], "<|begin_of_text|>")
    return made, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}


def qwen() -> tuple[Tokenizer, dict]:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    made = byte_level(QWEN, special, ["<tool_call>", "</tool_call>"], None)
    return made, {"eos_token": "<|im_end|>", "chat_template": TOOLS_TEMPLATE}


def t5() -> tuple[Tokenizer, dict]:
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(CORPUS.read_text().split("\n"), trainer)
    made.add_special_tokens([f"<extra_id_{i}>" for i in range(3)])
    made.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 1)])
    return made, {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


@pytest.fixture(scope="module", params=["smollm2", "whisper_tiny", "llama3", "qwen", "t5"])
def directory(request, tmp_path_factory):
    if request.param in ("smollm2", "whisper_tiny"):
        return request.getfixturevalue(request.param)
    path = tmp_path_factory.mktemp("tokenizers") / request.param
    path.mkdir()
    made, settings = {"llama3": llama3, "qwen": qwen, "t5": t5}[request.param]()
    made.save(str(path / "tokenizer.json"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


@pytest.fixture(scope="module")
def tokenizer(directory):
    config = directory / "config.json"
    return load_tokenizer(directory, json.loads(config.read_text()) if config.is_file() else {})


@pytest.fixture(scope="module")
def oracle(directory):
    return Tokenizer.from_file(str(directory / "tokenizer.json"))


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_texts_become_the_tokens_of_the_file(tokenizer, oracle, text):
    assert encode(tokenizer, text) == oracle.encode(text).ids


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_streamed_pieces_join_to_the_text(tokenizer, oracle, text):
    tokens = oracle.encode(text, add_special_tokens=False).ids
    stream = Detokenizer(tokenizer, skip_special_tokens=False)
    pieces = [stream.push(token) for token in tokens]
    whole = tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert "".join(pieces) + stream.flush() == whole
    assert not any("\ufffd" in piece for piece in pieces)


def test_what_each_family_is_special_in(directory, tokenizer, oracle):
    def pieces(text):
        return [tokenizer.decode([token]).strip() for token in oracle.encode(text, add_special_tokens=False).ids]

    ids = encode(tokenizer, "a")
    if directory.name == "llama3":
        assert "".join(pieces("1234567")) == "1234567" and 1 < max(map(len, pieces("1234567"))) <= 3
        assert ids[0] == oracle.token_to_id("<|begin_of_text|>")
        assert encode(tokenizer, "<|begin_of_text|>a") == ids, "a rendered chat has its own"
    elif directory.name == "t5":
        assert ids[-1] == tokenizer.eos_token_id == 1
        assert encode(tokenizer, "a   b\n\nc") == encode(tokenizer, "a b c")
        assert oracle.token_to_id("<extra_id_1>") in encode(tokenizer, "the <extra_id_1> end")
    elif "whisper" in directory.name:
        assert [oracle.id_to_token(i) for i in ids[:2]] == ["<|startoftranscript|>", "<|notimestamps|>"]
        assert ids[-1] == tokenizer.eos_token_id
    else:  # SmolLM2 and Qwen: every digit is a token, added ones are whole
        assert pieces("1234567") == list("1234567")
        assert oracle.token_to_id("<|im_start|>") in encode(tokenizer, "x<|im_start|>y")
        assert encode(tokenizer, "e\u0301") == encode(tokenizer, "é" if directory.name == "qwen" else "e\u0301")


def test_tools_are_rendered_or_refused(directory, tokenizer):
    messages = [{"role": "user", "content": "Is it raining?"}]
    if directory.name == "qwen":
        rendered = render_chat(tokenizer, messages, [TOOL])
        assert rendered == (
            f"<|im_start|>system\n<tools>\n{json.dumps(TOOL)}\n</tools><|im_end|>\n"
            "<|im_start|>user\nIs it raining?<|im_end|>\n<|im_start|>assistant\n"
        )
        assert encode(tokenizer, rendered)[0] == tokenizer.convert_tokens_to_ids("<|im_start|>")
    else:
        with pytest.raises(CutworkError, match=r"no chat template|knows no tools"):
            render_chat(tokenizer, messages, [TOOL])


@pytest.mark.slow
def test_a_list_of_ends_in_the_file_stops_the_text(smollm2, tmp_path):
    for file in smollm2.iterdir():
        (tmp_path / file.name).symlink_to(file)
    with Model.load(tmp_path, threads=1, max_context=128) as model:
        free = model.generate("The capital of France is", max_new_tokens=12)
        named = model.tokenizer.eos_token_id
    assert free.finish_reason == "length" and len(free.tokens) == 12
    end = free.tokens[5]
    first = free.tokens.index(end)
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, end]}))
    with Model.load(tmp_path, threads=1, max_context=128) as model:
        stopped = model.generate("The capital of France is", max_new_tokens=12)
        assert model.stop_tokens == {7, end, named}
    assert stopped.finish_reason == "stop"
    assert stopped.tokens[:first] == free.tokens[:first] and len(stopped.tokens) <= first + 1
