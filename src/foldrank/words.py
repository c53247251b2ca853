"""Text of a stranger as a terminal may be shown it."""

from __future__ import annotations

from typing import Final

MOST: Final = 2_000
"""Characters of a message; where it is longer its middle is left out, so that the way out at its end stays."""


def printable(text: str) -> str:
    """The text, control characters and others that are not seen written as Python writes them: `\\x1b`."""
    return text if text.isprintable() else "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def one_line(text: str) -> str:
    """The text on one line of a readable length."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= MOST else f"{line[:MOST // 2]} […] {line[-MOST // 3:]}"
