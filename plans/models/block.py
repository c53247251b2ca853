"""One decoder block in torch: its parameters by name, its linears by single role, and what a fold makes of several.

Knows modules and names. Knows nothing of how blocks are run in a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from foldrank.digests import combine
from foldrank.edits import FoldBlocks
from foldrank.plans.models.families import Family
from foldrank.sites import PACKED


@dataclass(frozen=True)
class Block:
    """One decoder block as it is now. `tensors` holds every parameter by the module's own names."""

    number: int
    kind: str
    module: nn.Module
    tensors: Mapping[str, Tensor]
    family: Family

    @property
    def likeness(self) -> tuple[object, ...]:
        """Only blocks of equal likeness can become one: kind, module and shapes."""
        return self.kind, type(self.module), self.shapes

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles it has, in the order of `ROLES`; a family without a gate has no `gate`."""
        return self.family.roles

    def weight(self, role: str) -> Tensor:
        """W [in, out] of y = x @ W, float32 at least; the role's columns where its weight is packed."""
        path = self.family.path(role)
        return widened(self._packed(path)[:, self._columns(path, role)])

    def linear(self, role: str) -> nn.Module:
        """The module that applies the role, for hooks."""
        return self.module.get_submodule(self.family.path(role))

    def with_weights(self, weights: Mapping[str, Tensor]) -> Block:
        """The block with other W [in, out] for some roles; biases stay."""
        tensors = dict(self.tensors)
        for path in dict.fromkeys(self.family.path(role) for role in weights):
            held = self.family.linears[path]
            whole = torch.cat([weights.get(role, self.weight(role)) for role in held], dim=1)
            tensors[f"{path}.weight"] = whole if self._in_out(path) else whole.T
        return replace(self, tensors=tensors)

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
        return sum(self.tensors[f"{path}.weight"].numel() for path in self.family.linears)

    @property
    def parameters(self) -> int:
        """Numbers in all parameters."""
        return sum(tensor.numel() for tensor in self.tensors.values())


def merge(blocks: Sequence[Block], fold: FoldBlocks) -> Block:
    """The block a fold leaves at `into`: combined projections and biases, norm gains of `norm_source`, float32."""
    named = {block.number: block for block in blocks}
    parts = [named[number] for number in fold.blocks]
    norms, into = named[fold.norm_source], named[fold.into]
    tensors: dict[str, Tensor] = {}
    for name in into.tensors:
        if _is_projection(into.family, name):
            tensors[name] = _combined([part.tensors[name] for part in parts], fold)
        else:
            tensors[name] = norms.tensors[name]
    return replace(into, tensors=tensors)


def _combined(tensors: Sequence[Tensor], fold: FoldBlocks) -> Tensor:
    coefficients = [fold.coefficients[number] for number in fold.blocks]
    for coefficient, tensor in zip(coefficients, tensors, strict=True):
        if coefficient == 1.0 and sum(c != 0.0 for c in coefficients) == 1:
            return tensor  # shared, not copied
    found = combine([widened(t).cpu().numpy() for t in tensors], coefficients)
    return torch.from_numpy(found).to(tensors[0].device)


def widened(tensor: Tensor) -> Tensor:
    """The tensor itself, or in float32 where it is narrower: exact."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _is_projection(family: Family, name: str) -> bool:
    return any(name.startswith(f"{path}.") for path in family.linears)


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
