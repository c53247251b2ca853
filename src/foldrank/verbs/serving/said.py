"""Answers in OpenAI's forms: objects, chunks of a stream, errors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from foldrank.verbs.serving.answering import Delta

Kind = Literal["chat", "text"]
_OBJECT = {"chat": "chat.completion", "text": "text_completion"}
_CHUNK = {"chat": "chat.completion.chunk", "text": "text_completion"}
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Form:
    """What every object of one answer says of itself."""

    kind: Kind
    id: str
    created: int
    model: str

    def whole(self, texts: Sequence[str], finishes: Sequence[str], usage: dict[str, int]) -> dict[str, Any]:
        """An answer that was not streamed."""
        choices = [{"index": index, **self._text(text), "logprobs": None, "finish_reason": finish}
                   for index, (text, finish) in enumerate(zip(texts, finishes, strict=True))]
        return {**self._head(_OBJECT[self.kind]), "choices": choices, "usage": usage}

    def first(self, index: int) -> bytes:
        """What a chat's stream opens with: whose turn it is."""
        return self._chunk([{"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None,
                             "finish_reason": None}])

    def chunk(self, delta: Delta) -> bytes:
        """A piece of a stream."""
        grown = ({"delta": {"content": delta.text} if delta.text else {}} if self.kind == "chat"
                 else {"text": delta.text})
        return self._chunk([{"index": delta.index, **grown, "logprobs": None, "finish_reason": delta.finish}])

    def usage(self, usage: dict[str, int]) -> bytes:
        """The last chunk, where the request asked for it."""
        return self._chunk([], usage=usage)

    def _text(self, text: str) -> dict[str, Any]:
        if self.kind == "chat":
            return {"message": {"role": "assistant", "content": text, "refusal": None}}
        return {"text": text}

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        return event({**self._head(_CHUNK[self.kind]), "choices": choices, **more})

    def _head(self, what: str) -> dict[str, Any]:
        return {"id": self.id, "object": what, "created": self.created, "model": self.model}


def usage(prompt: int, new: int) -> dict[str, int]:
    """Tokens of one request."""
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


def error(message: str, status: int, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """OpenAI's error object."""
    kind = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}.get(
        status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def event(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
