"""Between text and token ids, off the event loop: a tokenizer is not safe in two threads at once."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

from cutwork.engine.decoding.sampling import Logprob
from cutwork.engine.model import Model


class Tokens:
    """The tokenizer of a model, one caller at a time."""

    def __init__(self, model: Model) -> None:
        self._model, self._lock = model, threading.Lock()

    async def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of a prompt, by default with the special tokens that the model expects around it.

        Raises CutworkError if it is empty or the model has no tokenizer.
        """
        return await asyncio.to_thread(self._locked, self._encode if not special else self._model.encode, text)

    async def render(self, messages: Sequence[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str:
        """The prompt of a conversation."""
        return await asyncio.to_thread(self._locked, self._model.render_chat, messages, tools)

    def text(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones included."""
        return str(self._locked(self._decode, ids))

    def _encode(self, text: str) -> list[int]:
        if self._model.tokenizer is None:
            return self._model.encode(text)  # which says so
        return [int(token) for token in self._model.tokenizer.encode(text, add_special_tokens=False)]

    def _decode(self, ids: Sequence[int]) -> str:
        if self._model.tokenizer is None:
            return " ".join(str(i) for i in ids)
        return str(self._model.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _locked(self, function: Any, *arguments: Any) -> Any:
        with self._lock:
            return function(*arguments)

    def legacy_logprobs(self, logprobs: Sequence[tuple[int, Logprob | None]], offset: int = 0) -> dict[str, Any]:
        """The `logprobs` of /v1/completions; the first token's text begins at character `offset`."""
        texts = [self.text([token]) for token, _ in logprobs]
        offsets = []
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        top = [None if p is None else {self.text([i]): value for i, value in p.top} for _, p in logprobs]
        return {
            "tokens": texts,
            "token_logprobs": [None if p is None else p.logprob for _, p in logprobs],
            "top_logprobs": top,
            "text_offset": offsets,
        }

    def chat_logprobs(self, logprobs: Sequence[Logprob]) -> dict[str, Any]:
        """The `logprobs` of /v1/chat/completions."""
        return {
            "content": [
                self._entry(p.token, p.logprob)
                | {"top_logprobs": [self._entry(token, value) for token, value in p.top]}
                for p in logprobs
            ],
            "refusal": None,
        }

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text = self.text([token])
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
