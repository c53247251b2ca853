"""From what was asked to tokens: prompts as `foldrank run` reads them, chats by the bundle's template.

transformers reads tokenizer and template where it is installed (the template in jinja2's sandbox), else
onnxruntime-genai does both.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from foldrank import strictjson
from foldrank.errors import SourceError
from foldrank.installed import missing
from foldrank.runtime.decoding.writing import Writer
from foldrank.verbs.serving.asked import Message, Refused

_TEMPLATE_BYTES = 1 << 20


class Encoder:
    """Tokens of prompts and of chats. `template`: in the place of the bundle's own."""

    def __init__(self, folder: Path, writer: Writer, *, bos: str = "auto", template: str | None = None) -> None:
        """Raises SourceError (tokenizer), ValueError (a BOS that the tokenizer has not, or that only transformers
        can put there)."""
        self._writer, self._template, self._lock = writer, template, threading.Lock()
        self._prompts: Any = None
        if not missing(("transformers", "jinja2")):
            from foldrank.plans.encoding import Prompts, opening_of
            from foldrank.plans.texts import load_tokenizer

            tokenizer = load_tokenizer(folder)
            self._prompts = Prompts(tokenizer, opening_of(tokenizer, bos), writer.rows)
        elif bos != "auto":
            raise ValueError(f"bos {bos}: needs transformers; pip install 'foldrank[torch]'")

    def prompt(self, asked: str | list[int]) -> list[int]:
        """Tokens of a prompt, as they are or of its text, that the model has room for. Raises Refused."""
        with self._lock:
            if isinstance(asked, str):
                return self._fitting(lambda: (self._prompts or self._writer).encode(asked), "prompt")
            return self._fitting(lambda: asked, "prompt")

    def chat(self, messages: list[Message]) -> list[int]:
        """Tokens of a chat up to where the assistant is to answer. Raises Refused."""
        turns = [message.plain() for message in messages]
        with self._lock:
            text = self._rendered(turns)
            return self._fitting(lambda: self._encoded(text), "messages")

    def _rendered(self, turns: list[dict[str, str]]) -> str:
        own = self._prompts.tokenizer if self._prompts else self._writer.tokenizer
        if self._prompts and self._template is None and not getattr(own, "chat_template", None):
            raise _untemplated()
        try:
            if self._prompts:
                return str(own.apply_chat_template(turns, chat_template=self._template, tokenize=False,
                                                   add_generation_prompt=True))
            return str(own.apply_chat_template(strictjson.dumps(turns), template_str=self._template or "",
                                               add_generation_prompt=True))
        except Exception as error:  # noqa: BLE001 - a template may raise whatever it likes, of a stranger's messages
            if "Empty chat template" in str(error):
                raise _untemplated() from None
            said = " ".join(str(error).split())[:200]
            raise Refused(f"the chat template does not take these messages: {said}", param="messages") from None

    def _encoded(self, text: str) -> list[int]:
        """The template has written what stands in front itself."""
        if self._prompts is None:
            return self._writer.encode(text)
        found: list[int] = self._prompts.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return found

    def _fitting(self, encode: Any, param: str) -> list[int]:
        try:
            ids: list[int] = encode()
            self._writer.check(ids)
        except SourceError as error:
            code = "context_length_exceeded" if "looks at" in error.what else None
            raise Refused(error.what, param=param, code=code) from None
        return ids


def read_template(path: Path) -> str:
    """A chat template from a file. Raises SourceError."""
    try:
        data = path.read_bytes()[: _TEMPLATE_BYTES + 1]
        if len(data) > _TEMPLATE_BYTES:
            raise SourceError(path, f"larger than {_TEMPLATE_BYTES >> 20} MiB", "give a Jinja chat template")
        return data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"cannot be read: {error.strerror}"
        raise SourceError(path, reason, "give a file with a Jinja chat template") from None


def _untemplated() -> Refused:
    return Refused("this model's tokenizer has no chat template; use /v1/completions, or start the server with "
                   "--chat-template FILE", param="messages", code="no_chat_template")
