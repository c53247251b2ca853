"""Chats as documents: turns with a role and a content, made a text by the tokenizer's own chat template.

A template is a stranger's program: transformers runs it in Jinja's sandbox, and what it raises is told as its fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from foldrank.errors import SourceError
from foldrank.installed import missing
from foldrank.plans.textfiles import whole

_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant"}
"""Names that other data sets have for roles."""

_WAY_OUT = 'messages: [{"role": "user", "content": "..."}, ...], or a string under "text"'


@dataclass(frozen=True)
class Chat:
    """Turns, each with `role` and `content`, and the file and line they stand at."""

    where: str
    messages: tuple[Mapping[str, Any], ...]

    def __len__(self) -> int:
        """Characters of all turns."""
        return sum(len(turn["content"]) for turn in self.messages)


def chat_of(where: str, turns: Any, key: str) -> Chat:
    """Read turns: `role` and `content`, or `from` and `value`; a content in parts is joined. Raises SourceError."""
    if not isinstance(turns, list) or not turns:
        raise SourceError(where, f"its \"{key}\" is no list of turns", _WAY_OUT)
    return Chat(where, tuple(_turn(where, turn) for turn in turns))


def rendered(chat: Chat, tokenizer: Any) -> str:
    """The chat as the tokenizer's template writes it. Raises SourceError, naming the chat's line."""
    if not getattr(tokenizer, "chat_template", None):
        raise SourceError(chat.where, "holds messages, and the tokenizer has no chat template",
                          'write them out as texts under "text", or give the checkpoint its chat_template')
    if missing(("jinja2",)):
        raise SourceError(chat.where, "holds messages, and jinja2, which runs chat templates, is not installed",
                          "pip install 'foldrank[report]'")
    try:
        return str(tokenizer.apply_chat_template([dict(turn) for turn in chat.messages], tokenize=False))
    except Exception as error:  # noqa: BLE001 - a stranger's template may raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise SourceError(chat.where, f"the tokenizer's chat template refuses it: {reason}",
                          'change its messages, or write it out under "text"') from None


def _turn(where: str, turn: Any) -> Mapping[str, Any]:
    if not isinstance(turn, Mapping):
        raise SourceError(where, "has a turn that is no object", _WAY_OUT)
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content if isinstance(part, Mapping))
    if not isinstance(role, str) or not isinstance(content, str):
        raise SourceError(where, "has a turn without a string for role or content", _WAY_OUT)
    others = {key: value for key, value in turn.items() if key not in ("role", "from", "content", "value")}
    return {"role": _ROLES.get(role, role), "content": whole(where, content), **others}
