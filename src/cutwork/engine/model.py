"""`Model`: load a model directory and make text with it."""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Unpack, overload

import numpy as np

from cutwork.architectures import architecture_of
from cutwork.engine import reading
from cutwork.engine.adapters import number_of
from cutwork.engine.assemble import assemble
from cutwork.engine.backend import Backend, Costs, Executor, Weight, choose, threads_for
from cutwork.engine.chat.template import ChatTemplate, render_chat
from cutwork.engine.classification.classifier import Classifier, Label, Span
from cutwork.engine.decoding import perplexity as measure
from cutwork.engine.decoding.options import GenerateOptions, each_answer
from cutwork.engine.decoding.requests import Generation, Session
from cutwork.engine.decoding.sampling import Logprob
from cutwork.engine.decoding.scoring import Scorer
from cutwork.engine.decoding.shared_session import SharedSession
from cutwork.engine.decoding.step_lock import StepLock
from cutwork.engine.embedding.embedder import Embedder, EmbedOptions, EmbedProgress
from cutwork.engine.embedding.hidden_states import HiddenStates
from cutwork.engine.encoder import EncodedInput
from cutwork.engine.generation_config import (
    generation_settings,
    start_tokens,
    stop_tokens,
    unheeded,
    usual_beams,
    usual_rules,
    usual_sampling,
)
from cutwork.engine.guessing import add_draft, add_lookup
from cutwork.engine.load_options import LOOKUP, LoadOptions, result_key, with_defaults
from cutwork.engine.read_model import read_model
from cutwork.engine.speech.adapter import Audio, open_transcription
from cutwork.engine.speech.options import options_from
from cutwork.engine.speech.segments import Segment, Transcript
from cutwork.engine.speech.transcribe import TranscriptionProgress
from cutwork.engine.tokenizer import a_list, encode, load_tokenizer, token_ids
from cutwork.engine.translation import NUM_BEAMS, TranslateOptions, TranslationProgress, translate
from cutwork.engine.weights.arrange import Layout
from cutwork.engine.weights.costs import load_costs
from cutwork.errors import CutworkError, closed, damaged_if_not_understood
from cutwork.pack.reader import PackedModel
from cutwork.store.block_names import in_block

log = logging.getLogger("cutwork.engine")
Prompt = str | Sequence[int]
Messages = Sequence[Mapping[str, Any]]


class Model:
    """A loaded model: weights, KV cache and tokenizer. Make one with `Model.load`.

        with Model.load("out/packed", threads=2) as model:
            print(model.generate("The capital of France is", max_new_tokens=8).text)

    All methods may be called from several threads; their requests then run as one batch.
    """

    def __init__(self, packed: PackedModel, **given: Unpack[LoadOptions]) -> None:
        """See `load`."""
        options = with_defaults(given)
        self.path, self.config = packed.path, packed.config
        self.loaded_with = result_key(options)  # what answers depend on beside the files
        self.architecture = architecture_of(packed.config)
        module = choose(options["backend"])
        self.threads = options["threads"] = threads_for(module, options["threads"])
        self.isa = _isa(module)
        self.costs: Costs | None = load_costs() if hasattr(module, "Costs") else None
        with ThreadPoolExecutor(1) as beside:  # importing what reads tokenizers takes as long as checking the weights
            tokenizer = beside.submit(load_tokenizer, packed.path, packed.config)
            runtime = assemble(packed, module, self.costs, options)
            self.tokenizer = tokenizer.result()
        self.executor: Executor | None = runtime.executor
        self.plan, self.encoder = runtime.plan, runtime.encoder
        self.weights: Mapping[str, Weight] = runtime.weights
        self.adapters: Mapping[str, int] = runtime.adapters  # bytes of each
        self.laid_out: Mapping[str, Layout] = runtime.laid_out  # the weights that are not as they are stored
        self.weights_left = runtime.left  # where they were read, in ordinary pages: there was no room for a copy
        self.cache_dtype = runtime.cache_dtype
        self.max_context, self.max_batch = runtime.max_context, options["max_batch"]
        self._cache = runtime.scheduler.cache
        size, settings = self.plan.vocabulary, generation_settings(packed.path, packed.config)
        self.start_tokens = start_tokens(settings, self.architecture.start, size) if self.encoder else []
        self.chat_template = ChatTemplate(self.tokenizer)
        self.stop_tokens = stop_tokens(settings, self.tokenizer, size)
        self.usual_sampling = usual_sampling(settings)  # of a server or a chat; nobody else is drawn for unasked
        self.usual_beams = usual_beams(settings, NUM_BEAMS, self.max_batch)  # of a translation
        if runtime.purpose.writes and (left := unheeded(settings, answers=self.encoder is not None)):
            log.warning("%s: generation_config.json says %s, which has no effect here", packed.path, ", ".join(left))
        if options["draft"] == LOOKUP:
            add_lookup(runtime, options)
        elif options["draft"] is not None:
            vocabulary = self.tokenizer.get_vocab() if self.tokenizer else None
            add_draft(runtime, read_model(options["draft"]), module, self.costs, options, vocabulary)
        self._adapter = options["adapter"]
        usual = usual_rules(settings, size, answers=self.encoder is not None) | {"adapter": self._adapter}
        names = list(runtime.adapters)
        self.session = Session(runtime.scheduler, self.tokenizer, self.stop_tokens, size, usual, names)
        self._turn = StepLock()
        self._scorer = Scorer(
            runtime.executor,
            self._cache,
            runtime.encoder,
            self._turn,
            self._check,
            runtime.logits_chunk,
            self.max_context,
        )
        self._shared = SharedSession(self.session, self._turn, self._check, self._scorer.waits_for_its_reader)
        self.states: HiddenStates | None = None  # of a model that writes no text
        self.embedder: Embedder | None = None
        self.classifier: Classifier | None = None
        if not runtime.purpose.writes:
            size, padding = runtime.scheduler.max_tokens, self.architecture.padding(packed.config)
            self.states = HiddenStates(self.plan, runtime.executor, self._cache, self._turn, size, padding)
            self.embedder = reading.embedder_of(runtime, self.states, self.tokenizer, self._check_tokens)
            self.classifier = reading.classifier_of(runtime, self.states, self.tokenizer, packed.config)

    @classmethod
    def load(cls, path: str | Path, **options: Unpack[LoadOptions]) -> "Model":
        """Load a model directory of any of the three kinds, or a model of the Hub by name.

        A checkpoint that is not packed is packed in memory. Options:

        threads: CPUs to use, 0 for all this process may use. weights: "i8" or "i4" rounds the linears of the blocks of
        a checkpoint, and its output head to "i8", each to the nearest and without calibration; "auto" leaves all as
        they are stored. cache_dtype: of the KV cache, "f32", "bf16" or "i8" (a scale per token and head: half the
        memory of bf16, for a small error); "auto" is f32 for a float32 model and bf16 otherwise. max_context: tokens
        per sequence, prompt and answer; by default what the model was made for, or less if memory is short. max_input:
        tokens of an input, if the model has an encoder. max_batch: sequences at a time. cache_bytes: memory for the KV
        cache, by default at most a quarter of what is available. backend: "native", "reference" (slow, NumPy) or
        "auto": native, unless the environment says CUTWORK_REFERENCE=1. draft: the directory of a quicker model with
        the same tokenizer that guesses up to `draft_tokens` tokens, 4 by default, which this one then checks in one
        step: the answers stay this model's own, draws have its distribution. "ngram" guesses without a model what
        followed the last tokens where they stood before. reorder_weights: lay out sparse int8 ones for many tokens
        once: about 2.5 more bytes per nonzero, faster batches with AVX-512's VBMI2, else nothing; None: where that is
        at most a quarter of the free memory. huge_pages: copy the weights to memory, a larger model's to huge pages,
        read faster; if not, processes share the file's, which must then stay as it is: replace a model by renaming
        another to its place, as `pack` does. adapters: directories of PEFT's LoRA adapters by the names that requests
        choose them by; they are added as each request asks, in floats, to a model of any encoding, sparse ones too.
        adapter: the one of them that answers where none is named; by default none.

        Raises CutworkError for whatever is wrong with the model or the options.

            Model.load("HuggingFaceTB/SmolLM2-135M-Instruct", threads=2, max_context=2048)
        """
        checked = with_defaults(options)
        with damaged_if_not_understood(path):
            return cls(read_model(path, checked["weights"], checked["threads"]), **checked)

    @overload
    def generate(  # type: ignore[overload-overlap]  # a str is a sequence of str
        self, prompt: Prompt, *, stream: Literal[False] = False, **options: Unpack[GenerateOptions]
    ) -> Generation: ...
    @overload
    def generate(
        self, prompt: Prompt, *, stream: Literal[True], **options: Unpack[GenerateOptions]
    ) -> Iterator[str]: ...
    @overload
    def generate(
        self, prompt: Sequence[Prompt], *, stream: Literal[False] = False, **options: Unpack[GenerateOptions]
    ) -> list[Generation]: ...
    def generate(
        self, prompt: Prompt | Sequence[Prompt], *, stream: bool = False, **options: Unpack[GenerateOptions]
    ) -> Generation | list[Generation] | Iterator[str]:
        """Continue a prompt (text or token ids), or a list of prompts as one batch; a model with an encoder answers it.

        Returns a `Generation`, a list of them for a list of prompts, or with `stream` an iterator over pieces of text
        that are whole characters; closing it early cancels the request. Options, with their defaults:

        max_new_tokens=128; stop=[], strings that end the answer and are left out of it; ignore_eos=False;
        skip_special_tokens=True; adapter=None, the name of one that the model was loaded with; and those of `Sampling`:
        temperature=0.0 (greedy), top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0, presence_penalty=0.0,
        frequency_penalty=0.0, logit_bias={}, sequence_bias=[], constraint=None, seed=None, logprobs=None; of its
        `Rules`: suppress_tokens=[], begin_suppress_tokens=[], forced_bos_token_id=None, forced_eos_token_id=None,
        forced_tokens={}, no_repeat_ngram_size=0, min_new_tokens=0, min_length=0; and of `Beams`: num_beams=1,
        length_penalty=1.0, early_stopping=False, num_return_sequences=1 (with a temperature so many draws),
        num_beam_groups=1, diversity_penalty=0.0, renormalize_logits=False. What the model's generation_config.json says
        of rules, repetition_penalty, length_penalty and early_stopping goes before these defaults; what it says of
        draws, num_beams and the longest answer does not.

        Raises CutworkError for what is no prompt or an empty one, one that does not fit the context, or an option out
        of range.

            model.generate("Once upon a time", max_new_tokens=64, temperature=0.8, top_p=0.95, seed=1).text
            for piece in model.generate("Once upon a time", stream=True):
                print(piece, end="", flush=True)
        """
        several = isinstance(prompt, Collection) and not isinstance(prompt, str | bytes)
        if several and len(prompt) == 0:
            raise CutworkError("the prompt is empty")
        single = not several or isinstance(next(iter(prompt)), int | np.integer)
        prompts: Sequence[Any] = [prompt] if single else prompt
        if stream and not single:
            raise CutworkError("only one prompt can be streamed; leave out stream=True for a list of prompts")
        tokens = [self.encode(item) if isinstance(item, str) else token_ids(item) for item in prompts]
        if len(prompts) > 1 and options.get("constraint") is not None:
            raise CutworkError("a constraint follows one answer; give one prompt at a time")
        if stream:
            answers = each_answer(options)
            if len(answers) > 1:
                raise CutworkError("only one answer can be streamed; leave out stream=True or num_return_sequences")
            pieces = self._shared.stream((*self._asked(tokens[0]), options))
            next(pieces)  # what is refused is refused here; and one that has begun ends its request when it is dropped
            return pieces
        results = self.answer_each([(ids, options) for ids in tokens])
        return results[0] if single else results

    @overload
    def chat(
        self, messages: Messages, *, stream: Literal[False] = False, **options: Unpack[GenerateOptions]
    ) -> Generation: ...
    @overload
    def chat(
        self, messages: Messages, *, stream: Literal[True], **options: Unpack[GenerateOptions]
    ) -> Iterator[str]: ...
    def chat(
        self, messages: Messages, *, stream: bool = False, **options: Unpack[GenerateOptions]
    ) -> Generation | Iterator[str]:
        """Answer a conversation, written with the model's own chat template. Options as for `generate`.

        The text is what the model writes, thoughts and tool calls included; `engine.chat.answer_parts` tells them
        apart.

        model.chat([{"role": "user", "content": "What is the capital of France?"}]).text
        """
        prompt = self.encode(self.render_chat(messages), special=False)
        return self.generate(prompt, stream=True, **options) if stream else self.generate(prompt, **options)

    @overload
    def translate(  # type: ignore[overload-overlap]  # a str is a sequence of str
        self, text: str, *, progress: TranslationProgress | None = None, **options: Unpack[TranslateOptions]
    ) -> Generation: ...
    @overload
    def translate(
        self, text: Sequence[str], *, progress: TranslationProgress | None = None, **options: Unpack[TranslateOptions]
    ) -> list[Generation]: ...
    def translate(
        self,
        text: str | Sequence[str],
        *,
        progress: TranslationProgress | None = None,
        **options: Unpack[TranslateOptions],
    ) -> Generation | list[Generation]:
        """Translate a text, or a list of them in batches of about equal length; empty texts stay empty.

        progress: called with what is done since the last call, by its place in the list. Options as for `generate`, but
        for num_beams, by default what the model's generation_config.json says or else 5, but no more than max_batch,
        and max_new_tokens, by default three times the text's tokens and 32; and prefix, what comes before each text, by
        default what the model's configuration says ("translate English to German: "); source and target, the languages,
        of models with a token for each ("eng_Latn", "deu_Latn").

        Raises CutworkError for a model that does not translate texts, a text longer than it can read, or a language it
        has no token for.

            model.translate(["Good morning.", "How are you?"], num_beams=5)
        """
        results = translate(self, a_list(text), progress, **options)
        return results[0] if isinstance(text, str) else results

    @overload
    def transcribe(
        self,
        audio: Audio,
        *,
        stream: Literal[False] = False,
        progress: TranscriptionProgress | None = None,
        **options: Any,
    ) -> Transcript: ...
    @overload
    def transcribe(
        self, audio: Audio, *, stream: Literal[True], progress: TranscriptionProgress | None = None, **options: Any
    ) -> Iterator[Segment]: ...
    def transcribe(
        self, audio: Audio, *, stream: bool = False, progress: TranscriptionProgress | None = None, **options: Any
    ) -> Transcript | Iterator[Segment]:
        """Write down what is said in a recording of any length, with Whisper.

        audio: a file of any format libsndfile reads, its contents, or mono float32 samples at 16 kHz. stream: return an
        iterator over segments as they are found. progress: called with (seconds done, seconds in all). The options,
        named and preset as in faster-whisper, are those of `speech.options.TranscribeOptions`: language, task,
        beam_size=5, temperature, initial_prompt, word_timestamps, vad_filter, …

        Raises CutworkError for a model that is no Whisper, audio that cannot be read, or an option out of range.

            for segment in model.transcribe("talk.mp3", stream=True):
                print(f"{segment.start:.2f} {segment.text}")
        """
        transcription = open_transcription(self, audio, options_from(options), progress=progress)
        return iter(transcription) if stream else transcription.result()

    @overload
    def embed(  # type: ignore[overload-overlap]  # a str is a sequence of str
        self, inputs: str, *, progress: EmbedProgress | None = None, **options: Unpack[EmbedOptions]
    ) -> np.ndarray: ...
    @overload
    def embed(
        self, inputs: Sequence[Prompt], *, progress: EmbedProgress | None = None, **options: Unpack[EmbedOptions]
    ) -> np.ndarray: ...
    def embed(
        self,
        inputs: str | Sequence[Prompt],
        *,
        progress: EmbedProgress | None = None,
        **options: Unpack[EmbedOptions],
    ) -> np.ndarray:
        """Vectors float32 [n, width] of texts or lists of token ids, [width] of a single text; longer ones are cut.

        How is what sentence-transformers' files in the directory say (`modules.json`); an encoder without them gives
        the mean of its hidden states. Options: prompt_name, one of the model's own prompts ("query"), or prompt, a
        text, to come before each; pooling: "cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean" or "lasttoken"
        instead of the model's; normalize: to length 1 or not, instead of what the model does; dimensions: only so many
        numbers, of models that were trained for it. progress: called with what is done since the last call, by its
        place.

        Raises CutworkError for a model that makes no vectors.

            model.embed(["What is cutwork?", "An embroidery."]) @ model.embed("Cloth is cut away.")
        """
        vectors = reading.embed(self, a_list(inputs), progress, options)
        return vectors[0] if isinstance(inputs, str) else vectors

    def classify(self, texts: Sequence[str | tuple[str, str]]) -> list[list[Label]] | list[list[Span]]:
        """Classes of texts, or of pairs of texts: all of them, the likeliest first, each with its score.

        Of a model that gives classes of tokens the parts of each text that are of a class. Longer texts are cut. A text
        alone is a list of one. Raises CutworkError for a model without such a head.

            model.classify(["I like it."])[0][0].label
        """
        return reading.classify(self, texts)

    def rank(self, query: str, documents: Sequence[str], *, raw: bool = False) -> np.ndarray:
        """How well each document answers a query, float32 [n], by a cross-encoder: from 0 to 1, or what the model's
        head gives if `raw`. The longer of the two is cut. Raises CutworkError for a model that does not tell.

            model.rank("What is cutwork?", ["An embroidery.", "A river."]).argmax()
        """
        return reading.rank(self, query, documents, raw=raw)

    def render_chat(
        self,
        messages: Messages,
        tools: Sequence[Mapping[str, Any]] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt that the model's chat template makes of messages, tools, and settings such as enable_thinking.

        Raises CutworkError if it has no template, or that has no such setting.
        """
        self.chat_template.check(settings or {})
        return render_chat(self.tokenizer, messages, tools, settings)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of a prompt, special tokens included; without more of them than the text names where `special` is
        False, as a chat that a template has written is to be read."""
        return encode(self.tokenizer, text, special=special)

    def encode_input(self, source: Prompt | np.ndarray) -> EncodedInput:
        """A handle of what the encoder of an encoder-decoder model is to read.

        That is text or token ids, or for Whisper a log-mel spectrogram float32 [mels, frames] as transformers' feature
        extractor makes it (30 seconds are 3000 frames; fewer, an even number, are read faster). Requests that share the
        handle share its keys and values. It is encoded when the first of them starts. Raises CutworkError for an empty
        or too long input or one of the wrong kind, and for a model without an encoder.

            source = model.encode_input("translate English to German: Good morning.")
            request = model.session.add(model.start_tokens, source, max_new_tokens=64)
        """
        if self.encoder is None:
            raise CutworkError("this model has no encoder; give its prompt to generate")
        return self.encoder.input(self.encode(source) if isinstance(source, str) else source)

    def answer_each(self, asked: Sequence[tuple[Sequence[int], GenerateOptions]]) -> list[Generation]:
        """Answers to prompts of token ids as one batch, each with options of its own, as for `generate`."""
        requests, counts = [], []
        for ids, options in asked:
            each, answers = self._asked(ids), each_answer(options)  # the answers share what has been read
            requests += [(*each, one) for one in answers]
            counts.append(len(answers))
        results = iter(self._shared.answers(requests))
        whole = [[next(results) for _ in range(count)] for count in counts]
        return [replace(first, alternatives=others) if others else first for first, *others in whole]

    def respond(
        self,
        memory: EncodedInput,
        prompt: Sequence[int],
        each: Sequence[GenerateOptions],
        check: Callable[[], None] | None = None,
    ) -> list[Generation]:
        """Answers to an input that begin with `prompt`, the decoder's first token ids: one for each of the options.

        check: called before every step; what it raises ends them all.
        """
        return self._shared.answers([(prompt, memory, options) for options in each], check)

    def logits(
        self,
        tokens: Sequence[int],
        memory: EncodedInput | None = None,
        *,
        first: int = 0,
        adapter: str | None = None,
    ) -> np.ndarray:
        """Logits float32 [T - first, vocabulary] after each of T tokens from the place `first` on: those after token t
        predict token t + 1.

        With an encoder, tokens are the decoder's and `memory` is what it answers. adapter: as for `generate`.
        """
        number = number_of(list(self.adapters), adapter or self._adapter)
        return np.concatenate(list(self._scorer.logits(token_ids(tokens), memory, first, number)))

    def cross_attention(
        self, tokens: Sequence[int], memory: EncodedInput, heads: Sequence[tuple[int, int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """How much each of T decoder tokens attends to each entry of the memory, float32 [H, T, memory.length], and the
        logits after each, float32 [T, vocabulary], as `logits` gives them.

        heads: (layer, head) of the decoder's cross attention; rows add up to 1. Raises CutworkError for a head that
        does not exist, or more tokens than the context.
        """
        return self._scorer.cross_attention(tokens, memory, heads)

    def token_logprobs(
        self,
        tokens: Sequence[int],
        alternatives: int = 0,
        memory: EncodedInput | None = None,
        *,
        first: int = 0,
        adapter: str | None = None,
        most: Callable[[int], int] | None = None,
    ) -> Iterator[list[Logprob | None]]:
        """Log-probabilities of the tokens of a text, in chunks as they are computed; None for the first token.

        Of those from the place `first` on only, which is less work than all. Each with the likeliest `alternatives`
        tokens in its place. adapter: as for `generate`. most: called before each chunk with how many tokens it could
        have, gives how many it shall have, at least one. Raises CutworkError if the text exceeds the context.
        """
        number = number_of(list(self.adapters), adapter or self._adapter)
        return self._scorer.token_logprobs(token_ids(tokens), alternatives, memory, first, number, most)

    def perplexity(
        self,
        text: str | Sequence[int],
        *,
        window: int = 1024,
        stride: int | None = None,
        max_tokens: int | None = None,
    ) -> measure.Perplexity:
        """Perplexity of a text, or of token ids, over windows of `window` tokens that begin every `stride` tokens.

        Every token is predicted once, from at least window - stride tokens before it (the first window apart);
        stride None is `window`: windows do not overlap, and the first token of each is not predicted.
        """
        tokens = self.encode(text) if isinstance(text, str) else token_ids(text)
        window = min(window, self.max_context)
        logits = partial(self._scorer.logits, adapter=number_of(list(self.adapters), self._adapter))
        return measure.perplexity(logits, tokens[:max_tokens], window=window, stride=stride or window)

    def check_writes(self) -> None:
        """Raise CutworkError for a model that only reads texts."""
        if self.states is not None:
            raise CutworkError(f"this model writes no text; use {'embed' if self.embedder else 'classify'}")

    @property
    def memory_bytes(self) -> dict[str, int]:
        """Bytes of weights, those of adapters included, KV cache and the arena of activations."""
        executors = [*filter(None, [self.executor]), *([self.encoder.executor] if self.encoder else [])]
        once = {id(weight): weight for weight in self.weights.values()}
        return {
            "weights": sum(w.nbytes + w.reordered_bytes for w in once.values()) + sum(self.adapters.values()),
            "cache": sum(int(executor.cache_bytes) for executor in executors),
            "arena": sum(int(executor.arena_bytes) for executor in executors),
        }

    @property
    def sparsity(self) -> float:
        """Fraction of zeros in the linears of the blocks; those inside stored blocks (block4x1, …) do not count."""
        blocks = [weight for name, weight in self.weights.items() if in_block(name)]
        size = sum(weight.rows * weight.cols for weight in blocks)
        return 1.0 - int(sum(weight.nonzeros for weight in blocks)) / max(int(size), 1)

    def close(self) -> None:
        """Cancel what runs and free weights and cache. The model cannot be used afterwards."""
        with self._turn:
            self.session.scheduler.close()
            self._scorer.close()
            if self.states:
                self.states.close()
            self.weights, self.executor, self.encoder = {}, None, None

    def __enter__(self) -> "Model":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _asked(self, tokens: Sequence[int]) -> tuple[Sequence[int], EncodedInput | None]:
        """What an answer to a prompt begins with, and what an encoder reads for it."""
        self._check(tokens)
        return (self.start_tokens, self.encoder.input(tokens)) if self.encoder else (tokens, None)

    def _check(self, tokens: Sequence[int]) -> None:
        """Raise CutworkError unless the model writes text, knows these tokens and is open."""
        self.check_writes()
        self._check_tokens(tokens)

    def _check_tokens(self, tokens: Sequence[int]) -> None:
        if self.executor is None:
            raise closed()
        for token in tokens:
            if not 0 <= token < self.plan.vocabulary:
                raise CutworkError(f"token {token} is not in the vocabulary of {self.plan.vocabulary} tokens")


def _isa(backend: Backend) -> str:
    """The instruction set it runs with; CutworkError if CUTWORK_ISA asks for one that is not known or not here."""
    try:
        return str(backend.isa())
    except ValueError as error:
        raise CutworkError(str(error)) from None
