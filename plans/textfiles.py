"""A text file's characters: bounded, inflated where it is gzip, decoded by its byte order mark, else as UTF-8.

Knows bytes. What is no text is refused by its name. Nothing is read past MOST_BYTES, inflated or not.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from pathlib import Path
from typing import IO

from foldrank.errors import SourceError
from foldrank.pointers import refuse_pointer

MOST_BYTES = 1 << 30
"""Of a file, and of what it inflates to: a thousand times what a calibration draws."""

_LINES = 'make JSON lines of it, objects with a "text" key'
_FRAME = f"{_LINES}: pandas.read_parquet(FILE).to_json('text.jsonl', orient='records', lines=True)"
_UNPACK, _TEXT = "unpack it and give a text in it", "give its text"
_KINDS: tuple[tuple[str, bytes, tuple[str, ...], str], ...] = (
    ("Parquet", b"PAR1", (".parquet",), _FRAME),
    ("Arrow", b"ARROW1", (".arrow",), _LINES),
    ("Feather", b"FEA1", (".feather",), _LINES),
    ("a zip archive", b"PK\x03\x04", (".zip", ".docx", ".xlsx", ".npz", ".pt"), _UNPACK),
    ("bzip2", b"BZh", (".bz2",), _UNPACK),
    ("xz", b"\xfd7zXZ\0", (".xz",), _UNPACK),
    ("Zstandard", b"\x28\xb5\x2f\xfd", (".zst",), _UNPACK),
    ("a 7z archive", b"7z\xbc\xaf", (".7z",), _UNPACK),
    ("a tar archive", b"ustar", (".tar", ".tgz"), _UNPACK),
    ("PDF", b"%PDF", (".pdf",), _TEXT),
    ("an Office document", b"\xd0\xcf\x11\xe0", (".doc", ".xls"), _TEXT),
    ("SQLite", b"SQLite format 3\0", (".sqlite",), _LINES),
    ("NumPy", b"\x93NUMPY", (".npy",), _LINES),
    ("HDF5", b"\x89HDF", (".h5",), _LINES),
    ("pickle", b"\x80\x04\x95", (".pkl",), _LINES),
)
"""Kinds of files that hold no text as it is: name, first bytes, suffixes, what to do."""

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
          (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_WAY_OUT = "give a text or .jsonl file"


def read_bytes(path: Path) -> bytes:
    """The file as it lies. Raises SourceError: it cannot be read, is too large, or a Git LFS pointer."""
    refuse_pointer(path)
    try:
        with path.open("rb") as file:
            return _bounded(str(path), file)
    except OSError as error:
        raise SourceError(path, f"cannot be read: {error.strerror}", _WAY_OUT) from None


def plain_name(path: str) -> str:
    """A path without the suffix of gzip."""
    return path[: -len(".gz")] if path.lower().endswith(".gz") else path


def characters(where: str, data: bytes) -> str:
    """What the bytes of the file `where` say. Raises SourceError on what is no text."""
    name = plain_name(where)
    if data.startswith(b"\x1f\x8b") or name != where:
        data = _inflated(where, data)
    for kind, first, suffixes, way_out in _KINDS:
        if data.startswith(first) or name.lower().endswith(suffixes):
            raise SourceError(where, f"is {kind}, which is not read as text", way_out)
    mark, encoding = next(((mark, name) for mark, name in _MARKS if data.startswith(mark)), (b"", "utf-8"))
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        called, at = encoding.removesuffix("-sig").upper(), error.start + len(mark)
        raise SourceError(where, f"is not {called} (byte {at})", "convert it to UTF-8") from None
    if "\0" in text:
        raise SourceError(where, "holds NUL bytes: it is binary, or UTF-16 without a byte order mark",
                          f"convert it to UTF-8, or {_WAY_OUT}")
    return text


def whole(where: str, text: str) -> str:
    """The text itself, which every encoding has: JSON may hold half a character. Raises SourceError."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SourceError(where, "holds half a character (a lone surrogate)", "mend its escapes") from None
    return text


def _inflated(where: str, data: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            return _bounded(where, file)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(where, f"is no whole gzip file: {error}", "compress it again") from None


def _bounded(where: str, file: IO[bytes] | gzip.GzipFile) -> bytes:
    data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise SourceError(where, f"holds more than {MOST_BYTES >> 20:,} MiB", "give a part of it")
    return data
