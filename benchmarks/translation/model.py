"""A tokenizer and a model in T5's format, both made from scratch."""

import json
from collections.abc import Iterable
from pathlib import Path

PREFIX = "translate English to German: "
SPECIAL = ["<pad>", "</s>", "<unk>"]  # ids 0, 1 and 2, as in T5
_WIDTH = 256


def write_tokenizer(directory: Path, texts: Iterable[str], vocabulary: int) -> None:
    """Train a unigram tokenizer that ends every text with </s>, and write it; digits stay apart."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), digits])
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocabulary, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", "$A </s> $B </s>", [("</s>", 1)])
    tokenizer.save(str(directory / "tokenizer.json"))
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": 512,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(described, indent=1) + "\n")


def write_model(directory: Path, seed: int) -> None:
    """Write a T5 v1.1 with random weights, for the tokenizer that is there."""
    import torch
    from tokenizers import Tokenizer
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=-(-Tokenizer.from_file(str(directory / "tokenizer.json")).get_vocab_size() // 64) * 64,
        d_model=_WIDTH,
        d_kv=_WIDTH // 4,
        d_ff=2 * _WIDTH,
        num_heads=4,
        num_layers=4,
        num_decoder_layers=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        tie_word_embeddings=False,
        decoder_start_token_id=0,
        task_specific_params={"translation_en_to_de": {"prefix": PREFIX, "num_beams": 5, "max_length": 128}},
    )
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(config)
    torch.nn.init.normal_(model.lm_head.weight, std=_WIDTH**-0.5)  # T5's own start has logits sixteen times larger
    model.save_pretrained(directory)
