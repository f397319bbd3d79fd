"""Classes of texts, pairs and tokens equal transformers'; ranks equal sentence-transformers' cross-encoders."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing

from cutwork.engine.embedding.texts import Tokens
from cutwork.engine.model import Model
from cutwork.errors import CutworkError
from cutwork.pack.pack import pack
from tests.architectures.test_encoders import ENCODERS, SPECIAL
from tests.engine.tiny import SMALL, byte_level_tokenizer, relative, torch, transformers
from tests.engine.tiny import make as make_decoder

LABELS = {0: "O", 1: "B-CLOTH", 2: "I-CLOTH"}
TEXTS = ["the cloth", "a", "The embroiderer cuts the cloth away.", "ünïcode the", "x" * 300]
PAIRS = [("what is cut?", "the cloth"), ("a", "The embroiderer cuts the cloth away and reinforces what is left. " * 5)]
FAMILIES = ["bert", "distilbert", "roberta", "xlm-roberta", "modernbert", "modernbert-biases", "qwen3"]


def make(family: str, of: str, labels: int = 3, **more):
    """A classifier whose weights are large enough that every part matters."""
    kind, changes = ENCODERS.get(family, (family, {"head_dim": 16}))
    names = LABELS if labels == 3 else {i: f"LABEL_{i}" for i in range(labels)}
    settings = {**SMALL, **SPECIAL, **changes, "vocab_size": 300, "pad_token_id": 0, **more}
    config = transformers.AutoConfig.for_model(
        kind, **settings, id2label=names, label2id={n: i for i, n in names.items()}
    )
    config._attn_implementation = "eager"
    auto = {
        "text": transformers.AutoModelForSequenceClassification,
        "token": transformers.AutoModelForTokenClassification,
    }[of]
    torch.manual_seed(0)
    model = auto.from_config(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.uniform_(0.5, 1.5)
            elif "embeddings" in name or "relative" in name:
                parameter.normal_(0.0, 0.5)
            else:
                parameter.normal_(0.0, 0.3 if parameter.ndim == 1 else parameter.shape[1] ** -0.5)
    return model


def tokenizer_with_pairs():
    """As BERT's: <s> first </s> second </s>, with types."""
    tokenizer = byte_level_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer.model_max_length, tokenizer.chat_template = 200, None
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


def save(model, directory: Path, **config) -> Path:
    model.save_pretrained(directory)
    tokenizer_with_pairs().save_pretrained(directory)
    stored = json.loads((directory / "config.json").read_text()) | config
    (directory / "config.json").write_text(json.dumps(stored))
    return directory


def load(directory: Path, **options) -> Model:
    return Model.load(directory, **{"threads": 1, "cache_bytes": 1 << 23, "max_context": 200, **options})


def expected(model, directory: Path, text) -> np.ndarray:
    """transformers' logits of a text or a pair."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    pair = (text,) if isinstance(text, str) else text
    inputs = tokenizer(*pair, return_tensors="pt", truncation=True, max_length=200)
    if not getattr(model.config, "type_vocab_size", 0) or "MPNet" in type(model).__name__:
        inputs.pop("token_type_ids", None)
    with torch.no_grad():
        return model(**inputs).logits[0].numpy()


@pytest.mark.parametrize("of", ["text", "token"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_transformers(family, of, tmp_path):
    hf = make(family, of, type_vocab_size=2) if family in ("bert", "roberta") else make(family, of)
    directory = save(hf, tmp_path / "model")
    pack(directory, tmp_path / "packed")
    texts = [*TEXTS, *PAIRS]
    for each in (directory, tmp_path / "packed"):
        with load(each) as model:
            assert model.classifier and model.embedder is None
            logits = model.classifier.logits(model.classifier.read(texts))
            for text, found in zip(texts, logits, strict=True):
                assert relative(found, np.atleast_2d(expected(hf, directory, text))) < 1e-4, text
            with pytest.raises(CutworkError, match="use classify"):
                model.generate([5, 6])


@pytest.mark.parametrize("of", ["text", "token"])
def test_logits_of_mpnet_equal_transformers(of, tmp_path):
    """Its padding is 1, with which the tokenizer of the other tests begins a text."""
    hf, ids = make("mpnet", of), list(range(4, 40))
    with load(save(hf, tmp_path)) as model, torch.no_grad():
        [found] = model.classifier.logits([Tokens.of_ids(ids)])
        assert relative(found, np.atleast_2d(hf(torch.tensor([ids])).logits[0].numpy())) < 1e-4
        with pytest.raises(CutworkError, match=r"the padding token \(1\)"):
            model.classifier.read(["a text"])


def test_a_mean_may_come_before_the_head(tmp_path):
    hf = make("modernbert", "text", classifier_pooling="mean", classifier_activation="relu")
    directory = save(hf, tmp_path)
    with load(directory) as model:
        for text, found in zip(TEXTS, model.classifier.logits(model.classifier.read(TEXTS)), strict=True):
            assert relative(found[0], expected(hf, directory, text)) < 1e-4


def test_padding_is_never_the_last_token_of_a_text(tmp_path):
    hf = make("qwen3", "text", pad_token_id=2)  # which the tokenizer puts behind every text
    directory = save(hf, tmp_path)
    ids = byte_level_tokenizer()("a cloth")["input_ids"]
    with load(directory) as model:
        texts = ["the cloth", "the cloth</s>", *PAIRS[:1], "</s></s>"]
        for text, tokens in zip(texts, model.classifier.read(texts), strict=True):
            [found] = model.classifier.logits([tokens])
            assert relative(found[0], expected(hf, directory, text)) < 1e-4, text
        padding = model.classifier.head
        assert [padding.end(np.array(each)) for each in (ids, [*ids, 2, 2], [2, 2])] == [len(ids), len(ids), 1]


def test_a_single_text_or_document_needs_no_list(tmp_path):
    with load(save(make("bert", "text"), tmp_path / "classes")) as model:
        assert model.classify("the cloth") == model.classify(["the cloth"])
        for texts, reason in ((3, "expected a text or a list, not 3"), (["a", 3], "as a tuple, not 3")):
            with pytest.raises(CutworkError, match=reason):
                model.classify(texts)
    with load(save(make("bert", "text", labels=1), tmp_path / "ranks")) as model:
        assert model.rank("a", "the cloth").tolist() == model.rank("a", ["the cloth"]).tolist()


@pytest.mark.parametrize("problem", [None, "multi_label_classification", "regression"])
def test_scores_of_texts_are_those_of_the_pipeline(problem, tmp_path):
    hf = make("bert", "text", problem_type=problem)
    directory = save(hf, tmp_path)
    pipeline = transformers.pipeline("text-classification", str(directory), top_k=None)
    with load(directory) as model:
        for text, labels in zip(TEXTS, model.classify(TEXTS), strict=True):
            [theirs] = pipeline([text], truncation=True, max_length=200)
            assert {each["label"]: pytest.approx(each["score"], abs=1e-4) for each in theirs} == {
                each.label: each.score for each in labels
            }
            assert labels[0].score == max(label.score for label in labels)


def test_parts_of_texts_are_those_of_the_pipeline(tmp_path):
    directory = save(make("roberta", "token"), tmp_path)
    pipeline = transformers.pipeline("token-classification", str(directory), aggregation_strategy="simple")
    texts = TEXTS[:4]
    with load(directory) as model:
        found = model.classify(texts)
    assert sum(map(len, found)) > 5
    for text, spans in zip(texts, found, strict=True):
        theirs = pipeline(text)
        assert [(each["entity_group"], each["start"], each["end"]) for each in theirs] == [
            (span.label, span.start, span.end) for span in spans
        ]
        for each, span in zip(theirs, spans, strict=True):
            assert span.text == text[span.start : span.end]
            assert each["score"] == pytest.approx(span.score, abs=1e-4)


@pytest.mark.parametrize("activation", [None, "torch.nn.modules.linear.Identity"])
@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "qwen3"])
def test_ranks_equal_cross_encoders(family, activation, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    more = {"sentence_transformers": {"activation_fn": activation, "version": "4.0"}} if activation else {}
    directory = save(make(family, "text", labels=1), tmp_path, **more)
    documents = [text for text in TEXTS if len(text) < 200]
    theirs = library.CrossEncoder(str(directory), device="cpu", max_length=200)
    pairs = [("what is cut?", document) for document in documents]
    with load(directory) as model:
        scores = model.rank("what is cut?", documents)
        raw = model.rank("what is cut?", documents, raw=True)
        labels = model.classify(pairs)
    logits = theirs.predict(pairs, activation_fn=torch.nn.Identity())
    assert relative(raw, logits) < 1e-4
    assert np.abs(scores - 1 / (1 + np.exp(-logits))).max() < 1e-5
    assert relative(np.array([each[0].score for each in labels]), theirs.predict(pairs)) < 1e-4


def test_cross_encoders_of_newer_versions(tmp_path):
    """Which write that they have one module, and what makes scores beside it, not into the configuration."""
    directory = save(make("bert", "text", labels=1), tmp_path)
    module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
    (directory / "modules.json").write_text(json.dumps([module]))
    beside = directory / "config_sentence_transformers.json"
    scores = {}
    for name in ("torch.nn.modules.activation.Sigmoid", "torch.nn.modules.linear.Identity"):
        beside.write_text(json.dumps({"activation_fn": name}))
        with load(directory) as model:
            scores[name] = model.classify([("what is cut?", "cloth")])[0][0].score
    sigmoid, identity = scores.values()
    assert sigmoid == pytest.approx(1 / (1 + np.exp(-identity)), abs=1e-5)
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 12}))
    with load(directory) as model:
        assert model.classifier.max_length == 12


def test_what_a_model_does_not_tell_is_said(tmp_path):
    three = save(make("bert", "text"), tmp_path / "three")
    with load(three) as model, pytest.raises(CutworkError, match="tells 3 classes of a text"):
        model.rank("a", ["b"])
    plain = transformers.AutoModel.from_pretrained(three)
    with load(save(plain, tmp_path / "plain")) as model, pytest.raises(CutworkError, match="gives no classes"):
        model.classify(["a"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"architectures": ["BertForTokenClassification"], "hidden_size": 47}, "config.json"),
        ({"id2label": 5}, None),
        ({"classifier_activation": "swiglu"}, "in a head"),
    ],
)
def test_damaged_heads(change, reason, tmp_path):
    directory = save(make("modernbert", "text"), tmp_path, **change)
    if reason is None:
        with load(directory) as model:
            assert model.classify(["a"])[0][0].label.startswith("LABEL_")
    else:
        with pytest.raises(CutworkError, match=reason):
            load(directory)


RERANK = (
    "{{ '<s>' }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n{% endif %}{% endfor %}"
    "<Query>: {{ messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first }}\n"
    "<Document>: {{ messages | selectattr('role', 'eq', 'document') | map(attribute='content') | first }}\n"
    "{% if add_generation_prompt %}answer: {% endif %}"
)


GENERATION_PROMPT = {"add_generation_prompt": True}


def reranker(directory: Path, *, both: bool = True) -> tuple:
    """A language model that is asked for yes (token 90) or no (91), as sentence-transformers describes it."""
    model = make_decoder("qwen3", vocab_size=300, tie_word_embeddings=both)
    model.save_pretrained(directory)
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = RERANK
    tokenizer.save_pretrained(directory)
    kinds = ["sentence_transformers.base.modules.transformer.Transformer", "sentence_transformers.x.LogitScore"]
    modules = [
        {"idx": i, "name": str(i), "path": ["", "1_LogitScore"][i], "type": kind} for i, kind in enumerate(kinds)
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_LogitScore").mkdir()
    ids = {"true_token_id": 90, "false_token_id": 91 if both else None}
    (directory / "1_LogitScore" / "config.json").write_text(json.dumps(ids))
    prompts = {"prompts": {"search": "Judge."}, "default_prompt_name": "search"}
    (directory / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return model, directory


@pytest.mark.parametrize("both", [True, False])
def test_a_language_model_ranks_by_yes_and_no(both, tmp_path):
    hf, directory = reranker(tmp_path / "model", both=both)
    pack(directory, tmp_path / "packed")
    tokenizer = byte_level_tokenizer()
    logits = []
    for document in TEXTS:
        text = f"<s>Judge.\n<Query>: what is cut?\n<Document>: {document}\nanswer: "
        with torch.no_grad():
            last = hf(torch.tensor([tokenizer.encode(text, add_special_tokens=False)])).logits[0, -1]
        logits.append(float(last[90] - last[91]) if both else float(last[90]))
    for each in (directory, tmp_path / "packed"):
        with load(each, max_context=256 if each == directory else 250) as model:
            short = [i for i, document in enumerate(TEXTS) if len(document) < 200]
            raw = model.rank("what is cut?", TEXTS, raw=True)
            assert relative(raw[short], np.array(logits)[short]) < 1e-4
            scores = model.rank("what is cut?", TEXTS)
            assert np.abs(scores - 1 / (1 + np.exp(-raw))).max() < 1e-6
            [long] = model.classifier.read([("q", "x y " * 400)])
            assert long.truncated and 200 < len(long) <= model.max_context
            with pytest.raises(CutworkError, match="leaves no room"):
                model.rank("q " * 400, ["d"])
            with pytest.raises(CutworkError, match="give pairs"):
                model.classify(["a"])
            with pytest.raises(CutworkError, match="writes no text"):
                model.generate("a")


def test_bent_logits_are_compared_as_they_are(tmp_path):
    _, directory = reranker(tmp_path / "qwen")
    hf = make_decoder("gemma3", vocab_size=300, final_logit_softcapping=0.5)
    hf.save_pretrained(directory)
    text = "<s>Judge.\n<Query>: what is cut?\n<Document>: the cloth\nanswer: "
    with torch.no_grad():
        ids = torch.tensor([byte_level_tokenizer().encode(text, add_special_tokens=False)])
        last = hf(ids).logits[0, -1]
    assert abs(last[90]) < 0.5 > abs(last[91])
    with load(directory) as model:
        assert model.rank("what is cut?", ["the cloth"], raw=True)[0] == pytest.approx(
            float(last[90] - last[91]), abs=1e-4
        )


@pytest.mark.parametrize(
    ("settings", "asks"),
    [
        ({"max_seq_length": 100}, True),
        ({"modality_config": {"message": {}}}, False),
        ({"modality_config": {"message": {}}, "processing_kwargs": {"chat_template": GENERATION_PROMPT}}, True),
        ({"processing_kwargs": {"chat_template": {"add_generation_prompt": False}}}, False),
    ],
)
def test_a_pair_is_written_as_sentence_transformers_has_it(settings, asks, tmp_path):
    _, directory = reranker(tmp_path)
    (directory / "sentence_bert_config.json").write_text(json.dumps(settings))
    with load(directory) as model:
        [tokens] = model.classifier.read([("q", "d")])
        assert model.tokenizer.decode(tokens.ids).endswith("answer: ") is asks


def test_classes_of_what_a_chat_template_writes_are_refused(tmp_path):
    directory = save(make("bert", "text", labels=1), tmp_path)
    module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
    (directory / "modules.json").write_text(json.dumps([module]))
    (directory / "sentence_bert_config.json").write_text('{"modality_config": {"message": {}}}')
    with pytest.raises(CutworkError, match="written by a chat template"):
        load(directory)


def test_damaged_questions(tmp_path):
    _, directory = reranker(tmp_path)
    (directory / "1_LogitScore" / "config.json").write_text('{"true_token_id": 300}')
    with pytest.raises(CutworkError, match="must be tokens of the model"):
        load(directory)
