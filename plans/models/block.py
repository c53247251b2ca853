"""One decoder block in torch: its parameters by name, its linears by single role.

Knows modules and names. Knows nothing of how blocks are run in a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from foldrank.edits.base import BRANCHES, LAST, Branch
from foldrank.plans.models.families import Family
from foldrank.sites import PACKED

Roles = tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """A [in, rank] and B [rank, out], float32. `shared`: the name of an A that several sites have; "" of its own."""

    a: Tensor
    b: Tensor
    shared: str = ""


@dataclass(frozen=True)
class Block:
    """One decoder block as it is now. `tensors` holds every parameter by the module's own names.

    `origin`: what the weights of each role were folded from, source numbers with coefficients; empty: itself.
    `pairs`: of the roles whose weights are a product A B.
    """

    number: int
    kind: str
    module: nn.Module
    tensors: Mapping[str, Tensor]
    family: Family
    origin: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    pairs: Mapping[Roles, Pair] = field(default_factory=dict)
    beside: Mapping[Roles, Pair] = field(default_factory=dict)
    """Pairs that stand beside what is there; the tensors are the sums."""
    shared: Mapping[str, str] = field(default_factory=dict)
    """Roles whose weights other blocks read too: those of one role and name are one weight."""
    dropped: frozenset[Branch] = frozenset()
    """Branches that add nothing: their tensors are there for the module, the last linear's are zeros."""

    @property
    def likeness(self) -> tuple[object, ...]:
        """Only blocks of equal likeness can become one: kind, module and shapes."""
        return self.kind, type(self.module), self.shapes

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles it has, in the order of `ROLES`; a family without a gate has no `gate`."""
        gone = {role for branch in self.dropped for role in BRANCHES[branch]}
        return tuple(role for role in self.family.roles if role not in gone)

    def weight(self, role: str) -> Tensor:
        """W [in, out] of y = x @ W, float32 at least; the role's columns where its weight is packed."""
        path = self.family.path(role)
        return widened(self._packed(path)[:, self._columns(path, role)])

    def linear(self, role: str) -> nn.Module:
        """The module that applies the role, for hooks."""
        return self.module.get_submodule(self.family.path(role))

    def with_pairs(self, pairs: Mapping[Roles, Pair]) -> Block:
        """The block with A B in the place of some weights, multiplied in float32 as a graph does."""
        weights: dict[str, Tensor] = {}
        for roles, pair in pairs.items():
            widths = [self.weight(role).shape[1] for role in roles]
            columns = (pair.a @ pair.b).to(self.weight(roles[0]).device).split(widths, dim=1)
            weights.update(zip(roles, columns, strict=True))
        made = self.with_weights(weights) if weights else self
        return replace(made, pairs={**made.pairs, **pairs})

    def size(self, roles: Sequence[str]) -> tuple[int, int]:
        """[in, out] of roles that read one input, side by side."""
        shapes = [self.weight(role).shape for role in roles]
        return shapes[0][0], sum(shape[1] for shape in shapes)

    def with_beside(self, pairs: Mapping[Roles, Pair]) -> Block:
        """The block with A B added to what some roles have; what was a pair stays one, with another beside it."""
        sums: dict[str, Tensor] = {}
        for roles, pair in pairs.items():
            widths = [self.weight(role).shape[1] for role in roles]
            columns = (pair.a @ pair.b).to(self.weight(roles[0]).device).split(widths, dim=1)
            sums.update((role, self.weight(role) + added) for role, added in zip(roles, columns, strict=True))
        return replace(self.with_weights(sums), pairs=self.pairs, beside={**self.beside, **pairs}, shared=self.shared)

    def with_weights(self, weights: Mapping[str, Tensor]) -> Block:
        """The block with other W [in, out] for some roles, with no pairs there or beside them; biases stay."""
        tensors = dict(self.tensors)
        for path in dict.fromkeys(self.family.path(role) for role in weights):
            held = self.family.linears[path]
            whole = torch.cat([weights[role] if role in weights else self.weight(role) for role in held], dim=1)
            tensors[f"{path}.weight"] = whole if self._in_out(path) else whole.T
        own = {role: name for role, name in self.shared.items() if role not in weights}
        return replace(self, tensors=tensors, pairs=_less(self.pairs, weights), beside=_less(self.beside, weights),
                       shared=own)

    def with_shared(self, lender: Block, names: Mapping[str, str]) -> Block:
        """The block with the lender's weights at these roles, under these names; tensors are shared where all roles of
        one are."""
        made = self.with_weights({role: lender.weight(role) for role in names} if lender is not self else {})
        paths = {self.family.path(role) for role in names}
        whole = {f"{path}.weight" for path in paths if set(self.family.linears[path]) <= names.keys()}
        return replace(made, tensors={**made.tensors, **{name: lender.tensors[name] for name in whole}},
                       shared={**made.shared, **names})

    def with_bias(self, role: str, added_O: Tensor) -> Block:
        """The block with a vector more in what a role gives."""
        path = self.family.path(role)
        columns, width, old = self._columns(path, role), self._packed(path).shape[1], self.tensors.get(f"{path}.bias")
        whole = functional.pad(added_O, (columns.start, width - columns.stop))
        return replace(self, tensors={**self.tensors, f"{path}.bias": whole if old is None else widened(old) + whole})

    def without(self, branch: Branch) -> Block:
        """The block with a branch that adds nothing."""
        last = f"{self.family.path(LAST[branch])}."
        zeros = {name: tensor.new_zeros(()).expand(tensor.shape)
                 for name, tensor in self.tensors.items() if name.startswith(last)}
        gone = BRANCHES[branch]
        return replace(self, tensors={**self.tensors, **zeros}, dropped=self.dropped | {branch},
                       pairs=_less(self.pairs, gone), beside=_less(self.beside, gone),
                       shared={role: name for role, name in self.shared.items() if role not in gone})

    @property
    def _unread(self) -> frozenset[str]:
        """Names of tensors that dropped branches alone would read."""
        return frozenset(name for branch in self.dropped for name in self.tensors
                         if self.family.owner(name, self.tensors) == branch)

    def _packed(self, path: str) -> Tensor:
        """All columns [in, out] of a linear: the one place where PyTorch's [out, in] is turned."""
        weight = self.tensors[f"{path}.weight"]
        return weight if self._in_out(path) else weight.T

    def _in_out(self, path: str) -> bool:
        return isinstance(self.module.get_submodule(path), Conv1D)

    def _columns(self, path: str, role: str) -> slice:
        """Columns of a role. Queries are as wide as what `o` reads, keys and values share the rest; gate, up halve."""
        held = self.family.linears[path]
        width = self._packed(path).shape[1]
        if held == PACKED["qkv"]:
            query = self._packed(self.family.path("o")).shape[0]
            widths = [query, (width - query) // 2, (width - query) // 2]
        else:
            widths = [width // len(held)] * len(held)
        start = sum(widths[: held.index(role)])
        return slice(start, start + widths[held.index(role)])

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter: what blocks must share to be merged."""
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    @property
    def site_parameters(self) -> int:
        """Numbers in the weights of its roles."""
        paths = dict.fromkeys(self.family.path(role) for role in self.roles)
        return sum(self.tensors[f"{path}.weight"].numel() for path in paths)

    @property
    def parameters(self) -> int:
        """Numbers in all parameters."""
        unread = self._unread
        return sum(tensor.numel() for name, tensor in self.tensors.items() if name not in unread)


def widened(tensor: Tensor) -> Tensor:
    """The tensor itself, or in float32 where it is narrower: exact."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class Seen(Exception):
    """What was to be seen of a block was: whoever watches raises it, so that nothing behind it is run."""


@contextmanager
def watch_inputs(block: Block, seen: Callable[[str, Tensor], None], roles: Sequence[str]) -> Iterator[None]:
    """Tell `seen(role, x [N, T, in])` each time one of the block's linears is run."""
    def hook(role: str) -> Callable[..., None]:
        return lambda _module, arguments: seen(role, arguments[0])

    handles = [block.linear(role).register_forward_pre_hook(hook(role)) for role in roles]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _less(pairs: Mapping[Roles, Pair], gone: Iterable[str]) -> dict[Roles, Pair]:
    """Without those that have one of these roles."""
    return {roles: pair for roles, pair in pairs.items() if not set(roles) & set(gone)}
