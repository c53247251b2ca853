"""What a page is made of: a few kinds of part, plain data. The template gives each kind its HTML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Mark = Literal["good", "bad", "warn", "quiet", ""]


@dataclass(frozen=True)
class Cell:
    """A table cell; `mark` colours it, and the template adds a sign so that colour never speaks alone."""

    text: str
    mark: Mark = ""


@dataclass(frozen=True)
class Table:
    """`align`: one letter a column, l, r or p (prose: wide and wrapped). The first column heads its row. No `head`:
    names and values."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    align: str
    caption: str = ""
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Picture:
    """An inline SVG, trusted (made here), with alternative text; `figure` is what it was made from (`picture.py`)."""

    svg: str
    caption: str
    name: str
    figure: Any
    kind: ClassVar[str] = "picture"


@dataclass(frozen=True)
class Text:
    """One paragraph."""

    text: str
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Commands:
    """What to type, one command a line, and what for."""

    text: str
    lines: tuple[str, ...]
    kind: ClassVar[str] = "commands"


@dataclass(frozen=True)
class Missing:
    """What is not measured, and the command that measures it."""

    what: str
    command: str
    kind: ClassVar[str] = "missing"


@dataclass(frozen=True)
class Block:
    """A source block in the strip: its number there, its number in the bundle (None: it left), what it became, and
    what it lost."""

    source: int
    now: int | None
    fold: int | None
    label: str
    beside: str = ""


@dataclass(frozen=True)
class Strip:
    """All source blocks in order; blocks of one fold share a number."""

    blocks: tuple[Block, ...]
    kind: ClassVar[str] = "strip"


@dataclass(frozen=True)
class Rank:
    """A rank-grid cell: chosen rank and its share of the largest possible rank; None: the site stayed dense, or is
    gone."""

    rank: int | None = None
    share: float = 1.0
    gone: bool = False


@dataclass(frozen=True)
class RankGrid:
    """Ranks by surviving block (rows) and role (columns)."""

    roles: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Rank, ...]], ...]
    kind: ClassVar[str] = "ranks"


@dataclass(frozen=True)
class Fold:
    """Parts behind a line to open."""

    summary: str
    parts: tuple[Part, ...]
    kind: ClassVar[str] = "fold"


Part = Table | Picture | Text | Commands | Missing | Strip | RankGrid | Fold


@dataclass(frozen=True)
class Section:
    """A headed part of the page; `anchor` is its id and, as a word, its link at the top."""

    anchor: str
    title: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Tile:
    """A key figure at the top: name, value, and what it is made of."""

    name: str
    value: str
    detail: str
    mark: Mark = ""


@dataclass(frozen=True)
class Verdict:
    """The page's first line: what may be said of this bundle, and why."""

    word: str
    reasons: tuple[str, ...]
    mark: Mark


def not_there(what: str, command: str, misfit: str | None) -> Missing | Text:
    """What stands where a report is not there: the command that makes it, or why the file cannot be read."""
    return Missing(what, command) if misfit is None else Text(f"Cannot be read: {misfit}.")


def table(head: tuple[str, ...], align: str, rows: list[list[str | Cell]], caption: str = "") -> Table:
    """A Table from strings and cells."""
    cells = tuple(tuple(c if isinstance(c, Cell) else Cell(c) for c in row) for row in rows)
    return Table(head, cells, align, caption)
