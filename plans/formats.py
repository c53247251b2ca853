"""What a text file is: prose, JSON records or a table, by its suffix and by what it says. Markup is not prose.

Knows names and the first characters of files.
"""

from __future__ import annotations

import re
from pathlib import PurePath

from foldrank.errors import SourceError
from foldrank.plans.records import Document, json_documents, table_documents

_JSON = {".jsonl", ".ndjson", ".json", ".jsonlines", ".ldjson"}
_TABLES = {".csv", ".tsv"}
_MARKUP = {".html", ".htm", ".xhtml", ".xml", ".svg", ".rss"}
_TAIL = {".txt", ".text"}
"""Suffixes that say nothing over one before them."""

_OBJECT = re.compile(r'\s*(?:\[\s*)?\{\s*"(?:[^"\\\n]|\\.)*"\s*:')
"""An object, or an array of them, begins."""

_DECLARED = re.compile(r"\s*(?:<!--.*?-->\s*)*<(?:\?xml|!doctype|html|head|body|svg|rss|feed|mediawiki)\b", re.I | re.S)
_WRAPPED = re.compile(r"\s*<([A-Za-z][\w:.-]*)(?:\s[^<>]*)?>")
_TAG = re.compile(r"<(/?)[A-Za-z][\w:.-]*(?:\s[^<>]{0,300})?/?>")
_LOOKED_AT = 1 << 16
_CLOSING, _SHARE = 20, 0.05
"""So many closing tags, and such a share of characters in tags, are no prose."""


def documents(where: str, name: str, text: str) -> list[Document]:
    """Documents of a file by that name (without .gz) and with that text. Raises SourceError, naming `where`."""
    suffixes = [suffix.lower() for suffix in PurePath(name).suffixes]
    last = suffixes[-1] if suffixes else ""
    if last in _TAIL and len(suffixes) > 1:
        last = suffixes[-2]
    if last in _TABLES:
        return table_documents(where, text)
    if last in _JSON or _OBJECT.match(text):
        return json_documents(where, text)
    if last in _MARKUP or _is_markup(text):
        raise SourceError(where, "is markup (HTML or XML), not prose", 'take the text out of it, or put it as it is '
                          'under "text" in a .jsonl file to calibrate on markup')
    return [text]


def _is_markup(text: str) -> bool:
    if _DECLARED.match(text):
        return True
    if (outer := _WRAPPED.match(text)) and text.rstrip().endswith(f"</{outer[1]}>"):
        return True
    start = text[:_LOOKED_AT]
    tags = list(_TAG.finditer(start))
    closing = sum(1 for tag in tags if tag[1])
    return closing >= _CLOSING and sum(map(len, (tag[0] for tag in tags))) >= _SHARE * len(start)
