"""Translators whose tokenizers are files of sentencepiece, as OPUS-MT's and M2M100's, answer as transformers does."""

import json
import shutil
from pathlib import Path

import pytest
import sentencepiece

from tests.engine.bart_tiny import make
from tests.engine.tiny import torch, transformers
from tests.text_to_text import VOCABULARY, load

SENTENCES = ["good morning to you", "how are you today, my friend", "the cloth is cut away, and the rest reinforced"]
FILES = {"marian": ("source.spm", "target.spm"), "m2m-100": ("sentencepiece.bpe.model",)}
NAMED = ["bos_token", "pad_token", "eos_token", "unk_token"]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def save(variant: str, directory: Path) -> None:
    """A tiny model with tokenizer files as those of the Hub: a token for each of the model's 300, and no more."""
    (directory / "text").write_text("\n".join(SENTENCES * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(directory / "text"),
        model_prefix=str(directory / "pieces"),
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(directory / "pieces.model"))
    learned = [pieces.id_to_piece(number) for number in range(pieces.get_piece_size())]
    languages = transformers.models.m2m_100.tokenization_m2m_100.FAIRSEQ_LANGUAGE_CODES["m2m100"]
    codes = [f"__{language}__" for language in languages] if variant == "m2m-100" else []
    vocabulary = SPECIAL + [piece for piece in learned if piece not in SPECIAL]
    vocabulary += [f"unused{number}" for number in range(VOCABULARY - len(vocabulary) - len(codes))]
    (directory / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(vocabulary)}))
    special = dict(zip(NAMED, SPECIAL, strict=True)) | {"additional_special_tokens": codes}
    (directory / "special_tokens_map.json").write_text(json.dumps(special))
    for name in FILES[variant]:
        shutil.copy(directory / "pieces.model", directory / name)
    model = make(variant)
    model.generation_config.update(eos_token_id=2)
    model.save_pretrained(directory)


@pytest.mark.parametrize("variant", FILES)
def test_texts_are_translated_as_transformers_translates_them(variant, tmp_path) -> None:
    save(variant, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    languages, forced = {}, None
    if variant == "m2m-100":
        languages, forced, theirs.src_lang = {"source": "fr", "target": "de"}, theirs.get_lang_id("de"), "fr"
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    with load(tmp_path) as engine:
        results = engine.translate(SENTENCES, num_beams=1, max_new_tokens=10, **languages)
    for sentence, result in zip(SENTENCES, results, strict=True):
        given = torch.tensor([theirs(sentence)["input_ids"]])
        written = model.generate(given, num_beams=1, max_new_tokens=10, do_sample=False, forced_bos_token_id=forced)
        assert result.tokens == written[0, 1:].tolist()
        assert result.text == theirs.decode(result.tokens, skip_special_tokens=True).strip()
