"""Tokenizers load from any model directory, quickly and without config.json."""

import json
import subprocess
import sys

import pytest
from tokenizers.processors import TemplateProcessing

from cutwork.engine.chat.template import render_chat
from cutwork.engine.tokenizer import encode, load_tokenizer
from cutwork.errors import CutworkError

from .tiny import SMALL, byte_level_tokenizer

CONFIG = {**SMALL, "model_type": "llama", "eos_token_id": 2}


@pytest.fixture
def directory(tmp_path):
    byte_level_tokenizer().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["TokenizersBackend", "PreTrainedTokenizerFast", "LlamaTokenizerFast", None])
def test_every_class_loads_without_a_config_beside_it(name, directory):
    path = directory / "tokenizer_config.json"
    settings = {k: v for k, v in json.loads(path.read_text()).items() if k != "tokenizer_class"}
    path.write_text(json.dumps({**settings, "tokenizer_class": name} if name else settings))
    tokenizer = load_tokenizer(directory, CONFIG)
    assert tokenizer.eos_token_id == 2
    assert len(encode(tokenizer, "the cat")) > 0
    assert render_chat(tokenizer, [{"role": "user", "content": "x"}]) == "user: x\nassistant: "


def test_loading_does_not_import_torch(directory):
    code = (
        "import sys; from pathlib import Path; from cutwork.engine.tokenizer import load_tokenizer;"
        f"load_tokenizer(Path({str(directory)!r}), {{}}).encode('the'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_tokenizer_means_token_ids_only(tmp_path):
    assert load_tokenizer(tmp_path, CONFIG) is None
    with pytest.raises(CutworkError, match="token ids"):
        encode(None, "text")
    with pytest.raises(CutworkError, match="chat template"):
        render_chat(None, [{"role": "user", "content": "x"}])


def test_damaged_files_get_one_sentence(directory):
    (directory / "tokenizer.json").write_text("{")
    with pytest.raises(CutworkError, match="cannot be read"):
        load_tokenizer(directory, CONFIG)


def test_begin_of_text_is_not_doubled():
    class Doubling:
        bos_token_id = 1

        def encode(self, text, add_special_tokens):
            return [1, 1, 7] if add_special_tokens else [1, 7]

    assert encode(Doubling(), "<s>x") == encode(Doubling(), "<s>x", special=False) == [1, 7]


@pytest.mark.parametrize("single", ["<s> $A", "$A </s>"])
def test_a_rendered_chat_has_the_tokens_that_transformers_gives_it(single):
    tokenizer, messages = byte_level_tokenizer(), [{"role": "user", "content": "the cat"}]
    special = [("<s>", 1), ("</s>", 2)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=special)
    theirs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert encode(tokenizer, render_chat(tokenizer, messages), special=False) == theirs
    assert encode(tokenizer, "the cat") == tokenizer.encode("the cat") != encode(tokenizer, "the cat", special=False)


def test_messages_are_checked(directory):
    tokenizer = load_tokenizer(directory, CONFIG)
    for messages in ([], [{"role": "user"}], [{"content": "x", "role": 3}]):
        with pytest.raises(CutworkError):
            render_chat(tokenizer, messages)
    tokenizer.chat_template = "{{ raise_exception('no system messages') }}"
    with pytest.raises(CutworkError, match="no system messages"):
        render_chat(tokenizer, [{"role": "system", "content": "x"}])
