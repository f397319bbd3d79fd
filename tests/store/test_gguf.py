"""GGUF files: read, they are the models that they were made of; damaged, they are refused in one sentence."""

import json
import os
import random
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from typer.testing import CliRunner

from cutwork.cli import app
from cutwork.engine.model import Model
from cutwork.engine.read_model import read_model
from cutwork.engine.tokenizer import load_tokenizer
from cutwork.errors import CutworkError
from cutwork.pack.pack import pack
from cutwork.store.directory import read_config
from cutwork.store.gguf import checkpoint_of, convert, write_gguf_checkpoint
from cutwork.store.gguf.file import GgufFile
from cutwork.store.gguf.tokenizer import ending_tokens, write_tokenizer
from cutwork.store.packed_codes import unpack_codes
from cutwork.store.resolve import resolve
from cutwork.store.safetensors import open_tensors
from tests.engine.tiny import byte_level_tokenizer, make, relative, torch, torch_logits
from tests.store.gguf_file import write_gguf

ROPE = {"rope_type": "default", "rope_theta": 10000.0}
LLAMA3 = {**ROPE, "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
GEMMA = {
    "num_hidden_layers": 6,
    "query_pre_attn_scalar": 16,
    "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
    "rope_parameters": {
        "sliding_attention": ROPE,
        "full_attention": {**ROPE, "rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0},
    },
}
# variant of tests/architectures, GGUF's architecture, and what its config says beside
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-mha-tied": ("llama", {}),
    "llama-linear": ("llama", {}),
    "llama-llama3": (
        "llama",
        {"head_dim": 16, "rope_parameters": {**LLAMA3, "original_max_position_embeddings": 8192}},
    ),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 16}),
    "gemma3": ("gemma3", GEMMA),
}
TOKENS = np.random.default_rng(0).integers(3, 260, 40)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CUTWORK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def tokenizer() -> Any:
    made = byte_level_tokenizer()
    made.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}>"
    return made


def small(path: Path, kind: str = "F32", **more: Any) -> Path:
    """A Llama of one layer, whose rows hold whole blocks of every type of 32 weights."""
    model = make("llama", vocab_size=300, hidden_size=64, intermediate_size=64, num_hidden_layers=1, head_dim=16,
                 num_attention_heads=4)  # fmt: skip
    return write_gguf(model, tokenizer(), path, "llama", kind, **more)


@pytest.mark.parametrize("variant", MODELS)
def test_a_model_is_what_it_was(variant: str, tmp_path: Path) -> None:
    arch, changes = MODELS[variant]
    model = make(variant, vocab_size=300, **changes)
    path = write_gguf(model, tokenizer(), tmp_path / "model.gguf", arch)
    with Model.load(path, threads=1, cache_bytes=1 << 22) as read:
        assert relative(read.logits(TOKENS.tolist()), torch_logits(model, TOKENS)) < 1e-4


def test_norms_of_gemma_may_be_bfloat16(tmp_path: Path) -> None:
    model = make("gemma2", vocab_size=300, query_pre_attn_scalar=16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:  # what is stored is one more, and exact in bfloat16
                parameter.copy_(torch.round(parameter * 32) / 32)
    path = write_gguf(model, tokenizer(), tmp_path / "model.gguf", "gemma2", vectors="BF16")
    with Model.load(path, threads=1, cache_bytes=1 << 22) as read:
        assert relative(read.logits(TOKENS.tolist()), torch_logits(model, TOKENS)) < 1e-4


def test_transformers_reads_what_is_made_of_it(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = make("qwen3", vocab_size=300)
    made = resolve(write_gguf(model, tokenizer(), tmp_path / "model.gguf", "qwen3"))
    again = AutoModelForCausalLM.from_pretrained(made, dtype=torch.float32).eval()
    assert relative(torch_logits(again, TOKENS), torch_logits(model, TOKENS)) < 1e-5


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_1"])
def test_weights_in_fewer_bits_mean_what_gguf_says(kind: str, tmp_path: Path) -> None:
    path = small(tmp_path / "model.gguf", kind)
    stored = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == "blk.0.ffn_up.weight")
    expected = gguf.dequantize(stored.data, stored.tensor_type).reshape(64, 64)
    write_gguf_checkpoint(path, (exact := tmp_path / "exact", exact.mkdir())[0], quantized="F32")
    tensor = open_tensors(exact)["model.layers.0.mlp.up_proj.weight"]
    found = (tensor.array.astype(np.uint32) << 16).view(np.float32) if tensor.dtype == "BF16" else tensor.array
    assert np.array_equal(found.astype(np.float32), expected)
    rounded = open_tensors(resolve(path))["model.layers.0.mlp.up_proj.weight"]
    assert rounded.dtype == ("F16" if kind == "F16" else "BF16")


@pytest.mark.parametrize("variant", ["llama", "qwen3"])
def test_codes_of_four_bits_stay_what_they_are(variant: str, tmp_path: Path) -> None:
    """Every linear's codes and scales are the file's, in the order of its rows, and the engine runs them as int4."""
    arch, changes = MODELS[variant]
    sizes = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "num_attention_heads": 4}
    model = make(variant, **{**changes, "vocab_size": 300, **sizes})
    path = write_gguf(model, tokenizer(), tmp_path / "model.gguf", arch, "Q4_0")
    write_gguf_checkpoint(path, (floats := tmp_path / "floats", floats.mkdir())[0], quantized="F32")
    exact, codes = open_tensors(floats), open_tensors(resolve(path, codes=True))
    linears = [name for name in exact if name.endswith("proj.weight")]
    assert len(linears) == 7 * model.config.num_hidden_layers
    assert "quantization_config" not in read_config(resolve(path))  # what prunes and trains gets floats
    for name in linears:
        packed, scales = codes[f"{name}_packed"].array, codes[f"{name}_scale"].array.astype(np.float32)
        values = unpack_codes(packed, 4, packed.shape[1] * 8).astype(np.float32) * scales.repeat(32, axis=1)
        assert np.array_equal(values, exact[name].array)
    with Model.load(path, threads=1) as engine, Model.load(floats, threads=1) as reference:
        assert {str(engine.weights[name].dtype) for name in linears} == {"i4"}
        assert relative(engine.logits(TOKENS.tolist()), reference.logits(TOKENS.tolist())) < 0.08
    pack(resolve(path, codes=True), tmp_path / "packed")
    assert read_model(tmp_path / "packed").weights[linears[0]].dtype == "i4"


@pytest.mark.parametrize("kind", ["Q8_0", "Q5_1"])
def test_other_quantised_linears_run_in_int8(kind: str, tmp_path: Path) -> None:
    """Within half a step of a row's scale of what the file says; the embedding stays a float."""
    path = small(tmp_path / "model.gguf", kind)
    write_gguf_checkpoint(path, (floats := tmp_path / "floats", floats.mkdir())[0], quantized="F32")
    exact, codes = open_tensors(floats), open_tensors(resolve(path, codes=True))
    assert "quantization_config" not in read_config(resolve(path))  # what prunes and trains gets floats
    linears = [name for name in exact if name.endswith("proj.weight")]
    for name in linears:
        scales = codes[f"{name}_scale"].array
        off = np.abs(codes[name].array * scales - exact[name].array)
        assert (off <= 0.501 * scales).all() and np.abs(codes[name].array).max(1).min() == 127
    with Model.load(path, threads=1) as engine, Model.load(floats, threads=1) as reference:
        assert {str(engine.weights[name].dtype) for name in linears} == {"i8"}
        assert str(engine.weights["model.embed_tokens.weight"].dtype) == "bf16"
        assert relative(engine.logits(TOKENS.tolist()), reference.logits(TOKENS.tolist())) < 0.05
    pack(resolve(path, codes=True), tmp_path / "packed")
    assert read_model(tmp_path / "packed").weights[linears[0]].dtype == "i8"


def test_the_tokenizer_and_the_template_come_along(tmp_path: Path) -> None:
    path = small(tmp_path / "model.gguf", tokenizer__ggml__eot_token_id=5)
    made = resolve(path)
    assert json.loads((made / "generation_config.json").read_text()) == {"eos_token_id": [tokenizer().eos_token_id, 5]}
    with Model.load(path, threads=1) as model:
        for text in ("Hello, world! 123", "  two  spaces\n\nand lines", "Ünïcödé 你好 🙂"):
            assert model.tokenizer.decode(model.encode(text)) == text
        assert len(model.encode("hello")) == 3  # "hel", "l", "o"
        assert model.render_chat([{"role": "user", "content": "hello"}]) == "hello>"


def test_a_text_begins_as_the_file_says(tmp_path: Path) -> None:
    plain, begun = (small(tmp_path / f"{name}.gguf", tokenizer__ggml__bos_token_id=1) for name in ("plain", "begun"))
    data = begun.read_bytes()
    key = b"tokenizer.ggml.add_bos_token"
    at = data.index(key) + len(key) + 4
    begun.write_bytes(data[:at] + b"\1" + data[at + 1 :])
    with Model.load(plain, threads=1) as model, Model.load(begun, threads=1) as other:
        assert other.encode("abc") == [1, *model.encode("abc")]


DEEPSEEK = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<think>", "   "]


def deepseek(path: Path, pre: str, begins: bool | None) -> GgufFile:
    """A file whose control tokens are spelled beyond the bytes' alphabet, as those of DeepSeek-R1's distills."""
    file = GgufFile(small(path))
    tokens, kinds = (list(file.metadata[f"tokenizer.ggml.{key}"]) for key in ("tokens", "token_type"))
    first = len(tokens)
    tokens, kinds = tokens + DEEPSEEK, [*kinds, 3, 3, 3, 3, 4, 4]
    added = {"tokens": tokens, "token_type": kinds, "pre": pre, "add_bos_token": begins, "bos_token_id": first,
             "eos_token_id": first + 1}  # fmt: skip
    metadata = {**file.metadata, **{f"tokenizer.ggml.{key}": value for key, value in added.items()}}
    file.metadata = {key: value for key, value in metadata.items() if value is not None}
    return file


@pytest.mark.parametrize(("pre", "arch"), [("deepseek-r1-qwen", "qwen2"), ("llama-bpe", "llama")])
@pytest.mark.parametrize("begins", [True, False, None])
def test_control_tokens_may_have_any_characters(pre: str, arch: str, begins: bool | None, tmp_path: Path) -> None:
    file = deepseek(tmp_path / "model.gguf", pre, begins)
    tokens = file.metadata["tokenizer.ggml.tokens"]
    write_tokenizer(file, arch, tmp_path)
    read = load_tokenizer(tmp_path, {})
    first = len(tokens) - len(DEEPSEEK)
    assert (read.bos_token_id, read.eos_token_id, len(read)) == (first, first + 1, len(tokens))
    for index in range(first, len(tokens)):
        assert read.encode(tokens[index], add_special_tokens=False) == [index]
    ids = read.encode("<｜User｜>hello<｜Assistant｜><think>")
    assert (ids[0] == first) == (pre == "llama-bpe" if begins is None else begins)
    assert first + 2 in ids and ids[-2:] == [first + 3, first + 4]
    assert read.decode(ids, skip_special_tokens=True) == "hello<think>"


def test_a_special_token_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    file = deepseek(tmp_path / "model.gguf", "deepseek-r1-qwen", True)
    file.metadata["tokenizer.ggml.tokens"][-3] = "<｜User｜>"
    with pytest.raises(CutworkError, match="'<｜User｜>' is not its token"):
        write_tokenizer(file, "qwen2", tmp_path)


def test_commands_take_the_file(tmp_path: Path, home: Path) -> None:
    path = small(tmp_path / "model.gguf", "Q8_0")

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    assert run("generate", str(path), "hello", "-n", "3", "--threads", "1")
    assert "ffn" not in run("explain", str(path), "--threads", "1", "--repeats", "1")
    assert json.loads(run("bench", str(path), "--threads", "1", "--json", "--prompt", "8", "--decode", "2", "-r", "1"))
    run("pack", str(path), str(tmp_path / "packed"))
    assert len(list((home / "gguf").iterdir())) == 1  # made once
    with Model.load(path, threads=1) as model, Model.load(tmp_path / "packed", threads=1) as packed:
        assert model.generate("abc", max_new_tokens=4).tokens == packed.generate("abc", max_new_tokens=4).tokens
    small(path)
    resolve(path)
    assert len(list((home / "gguf").iterdir())) == 2  # another file by the same name


def test_files_that_look_alike_from_outside_are_not_one(tmp_path: Path) -> None:
    path, other = small(tmp_path / "model.gguf"), tmp_path / "other" / "model.gguf"
    other.parent.mkdir()
    time = path.stat().st_mtime_ns
    content = bytearray(path.read_bytes())
    made = [checkpoint_of(path)]
    for place, change in ((other, 0), (path, 1)):
        content[-1] ^= change
        place.write_bytes(content)
        os.utime(place, ns=(time, time))
        made.append(checkpoint_of(place))
    assert len(set(made)) == 3


def test_another_process_may_read_the_same_file(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes second finds what the first made, and says nothing of it."""
    path, quicker = small(tmp_path / "model.gguf"), []

    def slow(*arguments: Any, **options: Any) -> None:
        if not quicker:
            quicker.append(None)
            quicker.append(checkpoint_of(path))
        write_gguf_checkpoint(*arguments, **options)

    monkeypatch.setattr(convert, "write_gguf_checkpoint", slow)
    assert checkpoint_of(path) == quicker[1]
    assert list((home / "gguf").iterdir()) == [quicker[1]]


def test_no_torch_is_needed(tmp_path: Path) -> None:
    path = small(tmp_path / "model.gguf", "Q4_0")
    code = f"""
import sys; sys.modules["torch"] = None
from cutwork import Model
with Model.load({str(path)!r}, threads=1) as model:
    print(len(model.generate("abc", max_new_tokens=3, ignore_eos=True).tokens))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout == "3\n", done.stderr


def test_what_cannot_be_read_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    whole = small(path).read_bytes()

    def fails(problem: str, content: bytes | None = None) -> None:
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(CutworkError, match=problem) as caught:
            resolve(path)
        assert "\n" not in str(caught.value)

    fails("no GGUF file", b"")
    fails("no GGUF file", b"GGML" + whole[4:])
    fails("GGUF version 50331648", whole[:4] + b"\0\0\0\3" + whole[8:])  # of a big-endian machine
    fails("does not fit; it may have been cut off", whole[:-100])
    fails("is damaged: it ", whole[:200])
    fails("announces 1152921504606846976 things", whole[:8] + struct.pack("<Q", 1 << 60) + whole[16:])
    monkeypatch.setattr("cutwork.store.gguf.file._LONGEST_LIST", 10)
    fails("more than the 10 that any vocabulary may have", whole)
    monkeypatch.undo()
    fails("architecture 'llamb'", whole.replace(b"llama", b"llamb"))
    fails("'blk.0.ffn_xp.weight', which no llama has", whole.replace(b"blk.0.ffn_up.", b"blk.0.ffn_xp."))
    fails("splits text as 'gpt-x'", whole.replace(b"gpt-2", b"gpt-x"))
    said = b"llama.block_count" + struct.pack("<II", 4, 1)
    for count in (0, 1 << 31):
        fails(f"block_count is {count}", whole.replace(said, said[:-4] + struct.pack("<I", count)))
    small(path, split__count=3)
    fails("one part of a GGUF; join them")
    small(path, llama__rope__scaling__type="longrope")
    fails("stretches positions by 'longrope'")


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_damaged_files_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    """1,000 of each: cut, with bits flipped, or with bytes of the header that stand for other numbers."""
    path = small(tmp_path / "model.gguf", kind)
    whole = path.read_bytes()
    file = GgufFile(path)
    header = min(tensor.begin for tensor in file.tensors.values())
    rng = random.Random(1)
    ends = {"read": 0, "refused": 0}
    for case in range(1000):
        data = bytearray(whole)
        if case % 10 == 0:
            del data[rng.randrange(len(data)) :]
        for _ in range(rng.choice((0, 1, 1, 3)) if case % 10 == 0 else rng.choice((1, 1, 3, 20))):
            at = rng.randrange(min(len(data), header if rng.random() < 0.8 else len(data)) or 1)
            if at < len(data):
                data[at] = rng.choice((data[at] ^ 1 << rng.randrange(8), 0, 1, 255, rng.randrange(256)))
        path.write_bytes(data)
        made = tmp_path / "made" / str(case)
        made.mkdir(parents=True)
        try:
            write_gguf_checkpoint(path, made, codes=True)
            if case % 10 == 5:
                with Model.load(made, threads=1, cache_bytes=1 << 22) as model:
                    model.generate([3, 4, 5], max_new_tokens=2)
            ends["read"] += 1
        except CutworkError as error:
            assert "\n" not in str(error), case
            ends["refused"] += 1
    assert min(ends.values()) > 100, ends


def ends(*texts: str, **said: int) -> list[int]:
    """What ends an answer in a vocabulary of two words and these control tokens, of which keys name some."""
    vocabulary = {"tokens": ["<|im_end|>", "a", *texts], "token_type": [1, 1, *(3 for _ in texts)]}  # the first is text
    stated = {f"{key}_token_id": value for key, value in said.items()}
    return ending_tokens({f"tokenizer.ggml.{key}": value for key, value in (vocabulary | stated).items()})


# From llama.cpp's loader of vocabularies.
LLAMA_CPP = ["<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<|endoftext|>",
             "<|eom_id|>", "<EOT>", "_<EOT>", "<|end_of_text|>", "<end_of_utterance>"]  # fmt: skip


@pytest.mark.parametrize("text", LLAMA_CPP)
def test_answers_end_as_llama_cpp_ends_them(text: str) -> None:
    assert ends("<pad>", text, "</turn>", eos=4) == [4, 3]


def test_a_part_of_an_answer_does_not_end_it_unless_the_file_says_so() -> None:
    assert ends("<|end|>", "<|return|>", "<|call|>", eos=3) == [3, 4]
    assert ends("<|end|>", "<|return|>", "<|call|>", eos=3, eot=2) == [3, 2, 4]


def test_what_ends_is_what_the_published_models_name() -> None:
    """Qwen2.5's and Llama 3.1's instruct models, of whose ends a file names one."""
    assert ends("<|endoftext|>", "<|im_start|>", "<|im_end|>", eos=4) == [4, 2]
    llama = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|eom_id|>", "<|eot_id|>"]
    assert ends(*llama, eos=6) == [6, 3, 5]


@pytest.mark.parametrize("key", ["rope.scale_linear", "rope.scaling.factor"])
def test_older_files_stretch_positions_too(key: str, tmp_path: Path) -> None:
    made = resolve(small(tmp_path / "model.gguf", **{f"llama.{key}".replace(".", "__"): 4}))
    assert read_config(made)["rope_parameters"] == {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
