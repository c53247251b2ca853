"""What every edit is: frozen data of one kind, with its phase, what it touches, and what it makes of an anatomy.

A kind is one file here and one in each of plans/simulate, plans/reference, passes and tests/kinds, all of its name; it
enters through one line of `KINDS` (`foldrank.edits`). Knows no kind.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeAlias

from pydantic import ConfigDict

from foldrank.digests import WeightDigest
from foldrank.sites import ROLES, Site

if TYPE_CHECKING:
    from foldrank.edits.anatomy import Anatomy

STRICT: Final = ConfigDict(extra="forbid", strict=True)

HEAD: Final = "head"
"""The matrix that makes the logits."""

EMBEDDING: Final = "embedding"
"""The table of words, [width, words] as a head would hold it."""

Part: TypeAlias = Site | str
"""A single-role site, `HEAD` or `EMBEDDING`."""

Branch: TypeAlias = Literal["attention", "mlp"]

BRANCHES: Final[Mapping[Branch, tuple[str, ...]]] = {"attention": ROLES[:4], "mlp": ROLES[4:]}
"""The roles of each branch of a block."""

MOST_BLOCKS: Final = 4096
"""That any source may have: what a stranger says of it is bounded before anything is counted by it."""

LAST: Final[Mapping[Branch, str]] = {"attention": "o", "mlp": "down"}
"""The role that makes a branch's result."""


class Phase(enum.IntEnum):
    """When an edit's turn comes: a plan's edits stand in this order, each seeing what the earlier ones left.

    New weights and pairs share a phase: each says what stands at a site, so one site takes one of them.
    """

    BLOCKS = 0
    BRANCHES = 1
    WIDTHS = 2
    NORMS = 3
    ROTATION = 4
    WEIGHTS = 5
    SHARING = 6
    STORAGE = 7
    BESIDE = 8


@dataclass(frozen=True)
class Touch:
    """The parts an edit reads, those whose content it writes, and those that it takes out of the model. A plan's source
    holds digests of all that is read (`Source.weights`)."""

    reads: frozenset[Part] = frozenset()
    writes: frozenset[Part] = frozenset()
    removes: frozenset[Part] = frozenset()

    @property
    def parts(self) -> frozenset[Part]:
        """All it touches."""
        return self.reads | self.writes | self.removes


def parts_of(blocks: Iterable[int], roles: Sequence[str] = ROLES) -> frozenset[Part]:
    """The parts of these blocks with these roles, whichever of them a family has."""
    return frozenset(Site(block, (role,)) for block in blocks for role in roles)


@dataclass(frozen=True)
class Told:
    """What something became, told of many at once: `43 weights and the head stored in 4 bits`. `counted`: subjects of
    one name are counted, not listed."""

    subject: str
    became: str
    counted: bool = True


@dataclass(frozen=True)
class Table:
    """Edits of one kind, to be shown: one row each, or one for each way where there are many alike."""

    title: str
    headings: tuple[str, ...]
    rows: Sequence[Sequence[Any]]


class Edit(abc.ABC):
    """One change of a model, in source numbering; y = x @ W, W [in, out]. Subclasses are frozen pydantic dataclasses.

    `listed`: the key under which `inspect --json` lists edits of this kind, `counted` that under which `plan --json`
    counts them.
    """

    kind: str
    phase: ClassVar[Phase]
    listed: ClassVar[str]
    counted: ClassVar[str]
    provable: ClassVar[bool] = False
    """Whether what it writes follows from the source alone, so that later edits can give digests of it."""

    @property
    @abc.abstractmethod
    def touch(self) -> Touch:
        """What it reads, writes and removes."""

    @property
    def replaced(self) -> Mapping[Part, WeightDigest]:
        """Digests of parts as the source has them, or as provable edits leave them: what it was made for."""
        return {}

    @property
    def shapes(self) -> Mapping[Part, tuple[int, int]]:
        """[in, out] of parts as the source has them, where the edit tells and changes them."""
        return {}

    @abc.abstractmethod
    def on(self, anatomy: Anatomy) -> Anatomy:
        """The anatomy it leaves. Raises ValueError, with the law that does not hold, where it cannot be made there."""

    @property
    def rounds_activations(self) -> bool:
        """Whether what it makes computes with activations rounded to int8."""
        return False

    def arrays(self) -> Mapping[str, tuple[int, ...] | None]:
        """Names of the plan's arrays it needs, with the shape each must have where the edit tells."""
        return {}

    def in_bytes(self) -> frozenset[str]:
        """Names of those of them that are uint8; all others are float32."""
        return frozenset()

    @property
    def leaves(self) -> Mapping[Site, str]:
        """Whole matrices that it leaves at single-role sites, by the names of the arrays that hold them, or would hold
        them once they are trained (`holding`); what later edits put there is not counted."""
        return {}

    @property
    def adds(self) -> Mapping[Site, str]:
        """Arrays [out] that it adds to what single-role sites give."""
        return {}

    @property
    def borrows(self) -> Mapping[Site, Site]:
        """Single-role sites that read another's weight from here on, each with that one."""
        return {}

    @property
    def ends(self) -> Mapping[Part, tuple[str, ...]]:
        """Arrays whose product it puts in the place of the head and the table of words [width, words]."""
        return {}

    def holding(self, names: frozenset[str]) -> Edit:
        """The edit with those of these arrays that are among what it `leaves`."""
        return self

    @classmethod
    def unsaid(cls, edits: Sequence[Any], blocks: int) -> str:
        """What of the model that all of this kind leave config.json has no words for. `blocks`: how many are left."""
        return ""

    @classmethod
    def gist(cls, edits: Sequence[Any]) -> str:
        """Edits of this kind in one sentence; empty where each is told by its own, or many as one (`told`)."""
        return ""

    @abc.abstractmethod
    def sentence(self) -> str:
        """What it does, for people."""

    @property
    def told(self) -> Told | None:
        """Where many alike are told as one. None: each is told by its own sentence."""
        return None

    @property
    def beside(self) -> str:
        """A word or two beside its block in a picture of all blocks; empty where that shows it otherwise, or not."""
        return ""

    @abc.abstractmethod
    def row(self) -> Any:
        """What `inspect --json` says of it."""

    @abc.abstractmethod
    def facts(self, hash_of: Callable[[Sequence[str]], str]) -> dict[str, Any]:
        """What `diff` compares, by what it is called. `hash_of` tells the content of named arrays."""

    @classmethod
    @abc.abstractmethod
    def table(cls, edits: Sequence[Any]) -> Table:
        """Edits of this kind as a table."""


class SiteEdit(Edit):
    """An edit of one site. `replaces` digests what stands there, single roles in storage order."""

    site: Site
    replaces: tuple[WeightDigest, ...]

    @property
    def touch(self) -> Touch:
        """Writes its site."""
        return Touch(writes=frozenset(self.site.parts))

    @property
    def replaced(self) -> Mapping[Part, WeightDigest]:
        """Of each role."""
        return dict(zip(self.site.parts, self.replaces, strict=True))


class BesideEdit(SiteEdit):
    """An edit that adds a pair's product to what its site gives. `factors`: names of A and B. Subclasses are
    dataclasses, as of every edit."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    rank: int
    factors: tuple[str, str]
    phase: ClassVar[Phase] = Phase.BESIDE


def adapter_factors(site: Site) -> tuple[str, str]:
    """What A and B are called where they are an adapter's; other pairs make up for what the plan itself lost."""
    return f"{site}.adapter.A", f"{site}.adapter.B"


class WeightEdit(SiteEdit):
    """An edit that says what stands at a site: the product of its arrays, in the order in which it names them."""

    phase: ClassVar[Phase] = Phase.WEIGHTS

    @property
    def ranked(self) -> tuple[int, tuple[int, int]] | None:
        """The rank, and W's shape [in, out], where a pair stands there."""
        return None
