"""Records of a data set to documents: a JSON value or a row of a table each, by the keys that data sets commonly have.

Knows JSON, CSV and names of keys. Every refusal names the file, the line and the keys that are read.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from foldrank.errors import SourceError
from foldrank.plans.chats import Chat, chat_of
from foldrank.plans.textfiles import whole

Document = str | Chat
"""A text, or turns of a chat that a tokenizer's template makes one of."""

WAY_OUT = "one object a line, with a string under \"text\""
KEYS = ("text", "content", "messages", "conversations", "prompt and completion", "instruction and output",
        "question and answer")
_ANSWERS = ("output", "response", "completion", "answer")
_BLANK = re.compile(r"\s*")
_DELIMITERS = (",", "\t", ";")


def json_documents(where: str, text: str) -> list[Document]:
    """Documents of JSON lines, of one array, or of values one after the other. Raises SourceError."""
    return [document_of(f"{where}:{line}", value) for line, value in _values(where, text)]


def table_documents(where: str, text: str) -> list[Document]:
    """Documents of a table with a header: comma, tab or semicolon, whichever its first line has. Raises SourceError."""
    first = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    limit = csv.field_size_limit(max(len(text), csv.field_size_limit()))
    found: list[Document] = []
    try:
        header = [name.strip() for name in next(rows, [])]
        for row in rows:
            at = f"{where}:{rows.line_num}"
            if row and len(row) != len(header):
                what = f"has {len(row)} fields, the header has {len(header)}"
                raise SourceError(at, what, "quote fields that hold the delimiter")
            if row:
                found.append(document_of(at, dict(zip(header, row, strict=True))))
    except csv.Error as error:
        raise SourceError(f"{where}:{rows.line_num}", f"is no row of a table: {error}", "quote its fields") from None
    finally:
        csv.field_size_limit(limit)
    return found


def document_of(where: str, record: Any) -> Document:
    """The document a record holds, by the first of KEYS it has. Raises SourceError."""
    if isinstance(record, str):
        return whole(where, record)
    if not isinstance(record, Mapping):
        raise SourceError(where, f"is {_named(record)}, not an object or a string", WAY_OUT)
    held = {key: value for key, value in record.items() if value is not None}
    for present, read in _READERS:
        if present(held):
            return read(where, held)
    raise SourceError(where, f"has no string \"text\": its keys are {_listed(record)}",
                      f"{WAY_OUT}; read are {', '.join(KEYS)}")


@dataclass
class _Cursor:
    """A place in a text, between white space, and the number of its line."""

    text: str
    at: int = 0
    line: int = 1

    def __post_init__(self) -> None:
        self.to(0)

    @property
    def ended(self) -> bool:
        """Whether nothing follows."""
        return self.at == len(self.text)

    def to(self, at: int) -> None:
        """Go on to the first character from there that is no white space."""
        found = _BLANK.match(self.text, at)
        end = found.end() if found else at
        self.line += self.text.count("\n", self.at, end)
        self.at = end

    def sees(self, mark: str) -> bool:
        """Whether the mark follows."""
        return self.text.startswith(mark, self.at)

    def takes(self, mark: str) -> bool:
        """Whether the mark follows; goes past it."""
        if found := self.sees(mark):
            self.to(self.at + len(mark))
        return found


def _values(where: str, text: str) -> Iterator[tuple[int, Any]]:
    """JSON values, one after the other or in one array, with the line each starts on."""
    decoder, cursor = json.JSONDecoder(), _Cursor(text)
    array = cursor.takes("[")
    while not (cursor.takes("]") if array else cursor.ended):
        line = cursor.line
        try:
            value, end = decoder.raw_decode(text, cursor.at)
        except json.JSONDecodeError as error:
            raise SourceError(f"{where}:{error.lineno}", f"is not JSON: {error.msg}", WAY_OUT) from None
        except (RecursionError, ValueError):
            what = "is not JSON that can be read: nested too deep, or a number too long"
            raise SourceError(f"{where}:{line}", what, WAY_OUT) from None
        yield line, value
        cursor.to(end)
        if array and not cursor.takes(",") and not cursor.sees("]"):
            what = "the array has no end" if cursor.ended else "no comma between two entries of the array"
            raise SourceError(f"{where}:{cursor.line}", f"is not JSON: {what}", WAY_OUT)
    if not cursor.ended:
        raise SourceError(f"{where}:{cursor.line}", "goes on after its array", "give one array, or " + WAY_OUT)


def _string(*keys: str) -> Callable[[str, Mapping[str, Any]], Document]:
    """Reads strings under keys, joined."""

    def read(where: str, held: Mapping[str, Any]) -> Document:
        for key in keys:
            if not isinstance(held[key], str):
                raise SourceError(where, f"has no string \"{key}\" but {_named(held[key])}", WAY_OUT)
        return whole(where, "".join(held[key] for key in keys))

    return read


def _messages(key: str) -> Callable[[str, Mapping[str, Any]], Document]:
    return lambda where, held: chat_of(where, held[key], key)


def _prompt(where: str, held: Mapping[str, Any]) -> Document:
    """A prompt and what completes it: as they are, or turns of a chat."""
    answer = _answer(held)
    if isinstance(held["prompt"], list) and isinstance(held[answer], list):
        return chat_of(where, [*held["prompt"], *held[answer]], "prompt")
    return _string("prompt", answer)(where, held)


def _instruction(where: str, held: Mapping[str, Any]) -> Document:
    """Instruction, input where there is one, and output, with a blank line between."""
    keys = [key for key in ("instruction", "input", "question", _answer(held)) if key in held]
    parts = [_string(key)(where, held) for key in keys]
    return "\n\n".join(part for part in parts if isinstance(part, str) and part.strip())


def _answer(held: Mapping[str, Any]) -> str:
    return next((key for key in _ANSWERS if key in held), "")


_READERS: tuple[tuple[Callable[[Mapping[str, Any]], bool], Callable[[str, Mapping[str, Any]], Document]], ...] = (
    (lambda held: "text" in held, _string("text")),
    (lambda held: "content" in held, _string("content")),
    (lambda held: "messages" in held, _messages("messages")),
    (lambda held: "conversations" in held, _messages("conversations")),
    (lambda held: "prompt" in held and _answer(held) != "", _prompt),
    (lambda held: ("instruction" in held or "question" in held) and _answer(held) != "", _instruction),
)
"""What a record must have, and how its document is read, first come first."""


def _named(value: Any) -> str:
    """A JSON value's kind, for people."""
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "true or false", int: "a number",
             float: "a number", type(None): "null"}
    return kinds.get(type(value), type(value).__name__)


def _listed(record: Mapping[str, Any]) -> str:
    return ", ".join(map(str, list(record)[:8])) or "none"
