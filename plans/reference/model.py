"""A transformers model taken apart for editing: blocks by source number, in each one Linear per role, and its anatomy.

Written without the planner's view of a model and without the passes; knows no kind of edit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from foldrank.edits.anatomy import Anatomy, Beside, BlockAnatomy, Matrix
from foldrank.edits.storage import FewBits, Numbers
from foldrank.errors import PlanMismatch
from foldrank.model.facts import head_size, heads, kv_heads
from foldrank.plans.models.rounding import rounded
from foldrank.plans.reference.modules import Looked, Sum
from foldrank.plans.reference.unpacking import stack, unpack
from foldrank.sites import ROLES

Way = tuple[FewBits, Numbers | None]
"""How a weight is stored in few bits, and as which numbers where the plan holds them."""

_FINAL = ("norm", "final_layernorm", "final_layer_norm", "ln_f")
"""Names of the norm behind the blocks."""

_BY_BLOCK = ("layer_types", "no_rope_layers")
"""Entries of a config that hold one value per block."""


@dataclass(frozen=True)
class Layer:
    """A block taken apart. `places`: for every role the module that holds its Linear, and the name it has there."""

    module: nn.Module
    places: dict[str, tuple[nn.Module, str]]

    def linear(self, role: str) -> nn.Linear:
        """The one Linear of a role."""
        (found,) = self.linears(role)
        return found

    def linears(self, role: str) -> list[nn.Linear]:
        """What computes a role, in order: a Linear, or the two that were put in its place; none that stand beside."""
        module = self.module_of(role)
        module = module.main if isinstance(module, Sum) else module
        found = [module] if isinstance(module, nn.Linear) else list(module.children())
        return [linear for linear in found if isinstance(linear, nn.Linear)]

    def beside(self, role: str) -> Beside | None:
        """The pair beside a role, read off its Linears."""
        module = self.module_of(role)
        return Beside(module.rank) if isinstance(module, Sum) else None

    def module_of(self, role: str) -> nn.Module:
        """What stands in a role's place."""
        parent, name = self.places[role]
        return parent.get_submodule(name)

    def put(self, role: str, module: nn.Module) -> None:
        """Another module in a role's place."""
        parent, name = self.places[role]
        if isinstance(parent, nn.ModuleDict):
            parent[name] = module
        else:
            setattr(parent, name, module)


@dataclass(frozen=True)
class Model:
    """What edits change, in place. `layers` by source number; `stored`: what the graph to be proved rounds floats to;
    `few_bits`: of each Linear that was rounded to few bits, in which."""

    whole: Any
    layers: dict[int, Layer]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    stored: torch.dtype = torch.float32
    few_bits: dict[int, FewBits] = field(default_factory=dict)
    alike: dict[tuple[int, Way], tuple[torch.Tensor, nn.Parameter]] = field(default_factory=dict)
    """Of weights that several blocks read: as they were, and as they are stored in one way."""
    turning: list[torch.Tensor] = field(default_factory=list)
    """What the stream is multiplied by where it enters the blocks, and again where it leaves them."""
    centring: list[nn.Module] = field(default_factory=list)
    """What norms a stream of no mean behind the blocks."""
    norms: dict[tuple[int, str], nn.Module] = field(default_factory=dict)
    """RMS norms that were put before branches, by block and branch."""

    @classmethod
    def of(cls, model: Any, arrays: Mapping[str, np.ndarray], stored: torch.dtype) -> Model:
        """Take it apart, in place."""
        return cls(model, take_apart(model), arrays, stored)

    @property
    def head(self) -> Any:
        """What makes the logits."""
        return self.whole.get_output_embeddings()

    def own_head(self) -> None:
        """Make the head a matrix of its own, where it was the embedding table."""
        self.head.weight = nn.Parameter(self.head.weight.detach().clone())

    @property
    def tied(self) -> bool:
        """Whether the head is the table of words."""
        head = self.head[-1] if isinstance(self.head, nn.Sequential) else self.head
        return head.weight is self.table.weight

    @property
    def table(self) -> Any:
        """What makes vectors of words."""
        return self.whole.get_input_embeddings()

    def tie(self) -> None:
        """Make the head the table of words. Raises PlanMismatch where it holds other numbers."""
        if not torch.equal(self.head.weight, self.table.weight):
            what = "is not the embedding table, which the plan stores as one with it"
            raise PlanMismatch("the head", what, "plan again")
        self.head.weight = self.table.weight

    def round(self, linear: nn.Linear, storage: FewBits) -> None:
        """What the graph holds, in its floats, rounded to few bits."""
        values = rounded(linear.weight.to(torch.float32).T, storage, self.stored).T
        self._fill(linear, (storage, None), values)
        self.few_bits[id(linear)] = storage

    def round_table(self, storage: FewBits, of_head: FewBits | None) -> None:
        """The same of the table of words; `of_head`: how a head is stored that is tied to it."""
        self.round(self.table, storage)
        if of_head is not None:
            self.few_bits[id(self.head)] = of_head

    def hold(self, linear: nn.Linear, storage: FewBits, numbers: Numbers) -> None:
        """What the plan's numbers say. Raises PlanMismatch where they are those of another shape."""
        wanted = storage.layout((linear.in_features, linear.out_features))[: 2 if numbers.zeros is None else 3]
        names = [name for name in (numbers.numbers, numbers.scales, numbers.zeros) if name is not None]
        for name, shape in zip(names, wanted, strict=True):
            if self.arrays[name].shape != shape:
                what = f"{name} is {self.arrays[name].shape}, the checkpoint needs {shape}"
                raise PlanMismatch("numbers of few bits", what, "plan again")
        values = torch.from_numpy(self._dequantized(storage, numbers, linear.in_features))
        self._fill(linear, (storage, numbers), values)
        self.few_bits[id(linear)] = storage

    def _fill(self, linear: nn.Linear, how: Way, values: torch.Tensor) -> None:
        """Other numbers in a Linear. A weight that other blocks read stays as it was: those of them that are stored in
        the same way read these numbers."""
        old = linear.weight
        key = (id(old), how)
        others = sum(found.weight is old for layer in self.layers.values() for role in layer.places
                     for found in layer.linears(role))
        if key not in self.alike and others < 2:
            old.copy_(values)
            return
        if key not in self.alike:
            self.alike[key] = old, nn.Parameter(values.to(old.dtype), requires_grad=False)
        linear.weight = self.alike[key][1]

    def _dequantized(self, storage: FewBits, numbers: Numbers, n_in: int) -> np.ndarray:
        """[out, in]: steps from zero, times the scale as the graph stores it."""
        scales = torch.from_numpy(np.array(self.arrays[numbers.scales])).to(self.stored).to(torch.float32).numpy()
        n_out, blocks = scales.shape
        packed = self.arrays[numbers.numbers].reshape(n_out, blocks, -1)
        steps = _numbers(packed, storage.bits, storage.block_size).astype(np.float32)
        if numbers.zeros is None:
            steps -= np.float32(1 << storage.bits - 1)
        else:
            steps -= _numbers(self.arrays[numbers.zeros], storage.bits, blocks)[..., None].astype(np.float32)
        return (steps * scales[..., None]).reshape(n_out, -1)[:, :n_in]

    def anatomy(self) -> Anatomy:
        """What it is made of now, read off its modules."""
        config = self.whole.config.to_dict()
        queries = heads(config) or 0
        return Anatomy(
            tuple(BlockAnatomy(number, {role: self._matrix(layer, role) for role in ROLES if role in layer.places})
                  for number, layer in sorted(self.layers.items())),
            self._head(), self.tied,
            queries, kv_heads(config) or queries, head_size(config) or 0, self.few_bits.get(id(self.table)),
            next((len(matrix) for matrix in self.turning), None), bool(self.centring),
            len(self.table.matrix) if isinstance(self.table, Looked) else None,
        )

    def _head(self) -> Matrix:
        if isinstance(self.head, nn.Sequential):
            first, last = cast(list[nn.Linear], [*self.head])
            return Matrix((first.in_features, last.out_features), first.out_features)
        return Matrix(_shape(self.head), few_bits=self.few_bits.get(id(self.head)))

    def _matrix(self, layer: Layer, role: str) -> Matrix:
        first, *more = linears = layer.linears(role)
        ways = {self.few_bits.get(id(linear)) for linear in linears}
        shape = (first.in_features, linears[-1].out_features)
        few_bits = ways.pop() if len(ways) == 1 else "mixed"
        stored = None if more else str(id(first.weight))
        return Matrix(shape, first.out_features if more else None, few_bits, layer.beside(role), stored=stored)

    def turn(self, matrix_CC: torch.Tensor) -> None:
        """Multiply what enters the first block, and what enters the final norm, by a matrix that is its own inverse.
        Raises PlanMismatch where no final norm is found."""
        stored_CC = matrix_CC.to(self.stored)

        def turned(_module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
            hidden, *rest = given
            return hidden @ stored_CC.to(hidden), *rest

        for module in (self.layers[min(self.layers)].module, self.final()):
            module.register_forward_pre_hook(turned)
        self.turning.append(matrix_CC)

    def centre(self, norm: nn.Module) -> None:
        """Take the mean of what enters the first block away; another norm behind the blocks."""
        def centred(_module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
            hidden, *rest = given
            return hidden - hidden.mean(-1, keepdim=True), *rest

        self.final()
        parent, _ = stack(self.whole)
        setattr(parent, next(name for name in _FINAL if hasattr(parent, name)), norm)
        self.layers[min(self.layers)].module.register_forward_pre_hook(centred)
        self.centring.append(norm)

    def final(self) -> nn.Module:
        """The norm behind the blocks. Raises PlanMismatch where none is found."""
        parent, _ = stack(self.whole)
        for name in _FINAL:
            if isinstance(found := getattr(parent, name, None), nn.Module):
                return found
        raise PlanMismatch(type(self.whole).__name__, f"has no final norm among {', '.join(_FINAL)}", "plan again")

    def put_together(self) -> nn.Module:
        """The model with the blocks that are left, numbered for the cache; lists of the config by block follow."""
        parent, name = stack(self.whole)
        config, surviving = self.whole.config, sorted(self.layers)
        kept = [self.layers[number].module for number in surviving]
        for index, layer in enumerate(kept):
            for module in layer.modules():
                if hasattr(module, "layer_idx"):
                    setattr(module, "layer_idx", index)  # noqa: B010
        setattr(parent, name, nn.ModuleList(kept))
        config.num_hidden_layers = len(kept)
        for entry in _BY_BLOCK:
            if values := getattr(config, entry, None):
                setattr(config, entry, [values[number] for number in surviving])
        return self.whole.eval()


def take_apart(model: Any, *, ends: bool = False) -> dict[int, Layer]:
    """Its blocks by number, in place: of all, or at the `ends` alone, the first and the last."""
    parent, name = stack(model)
    blocks = list(getattr(parent, name))
    asked = sorted({0, len(blocks) - 1}) if ends else range(len(blocks))
    return {number: Layer(blocks[number], unpack(blocks[number], model.config)) for number in asked}


def matrix_of(linear: nn.Linear) -> np.ndarray:
    """W [in, out], float32."""
    return np.ascontiguousarray(linear.weight.detach().to(torch.float32).cpu().numpy().T)


def _numbers(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """`count` numbers on the last axis, each of `bits`, from the lowest bits of each byte on."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    numbers = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return numbers.reshape(*packed.shape[:-1], -1)[..., :count]


def _shape(linear: Any) -> tuple[int, int]:
    return tuple(linear.weight.shape[::-1])
