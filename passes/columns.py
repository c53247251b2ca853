"""Fewer columns of a linear's result: what reads them follows, up to the linear that takes them in.

    x @ [gate up] --> Reshape --> Split or Slices --> activation, products --> Reshape --> @ down

Sizes written into the graph change with them (of Split, Slice and Reshape, and declared shapes), and vectors with one
number for each column (biases). Operators that mix columns, or that are not known here, are a reason to refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate

import numpy as np
import onnx_ir as ir

from foldrank.graph.linear.marks import BLOCK, MADE_BY
from foldrank.graph.linear.parts import rank_of
from foldrank.graph.linear.weights import add_initializer, lazily, read, set_initializer
from foldrank.passes.sizes import numbers_of, size_of

_BY_COLUMN = frozenset({
    "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Neg", "Abs", "Exp", "Erf", "Tanh", "Sigmoid", "HardSigmoid", "Relu",
    "LeakyRelu", "Elu", "Gelu", "FastGelu", "QuickGelu", "BiasGelu", "Swish", "Softplus", "Mish", "HardSwish", "Clip",
    "Min", "Max", "Where", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Cast", "Identity",
})
"""Operators that compute each column of what they read alone."""


@dataclass(frozen=True)
class Part:
    """Neighbouring columns, of which those of `kept` stay; None: all."""

    before: int
    kept: tuple[int, ...] | None = None

    @property
    def after(self) -> int:
        """Columns that stay."""
        return self.before if self.kept is None else len(self.kept)


Parts = tuple[Part, ...]


def columns_kept(parts: Sequence[Part]) -> np.ndarray:
    """Numbers of the columns that stay, of all parts side by side."""
    starts = accumulate((part.before for part in parts), initial=0)
    return np.concatenate([
        start + (np.arange(part.before) if part.kept is None else np.array(part.kept, dtype=np.int64))
        for start, part in zip(starts, parts, strict=False)])


def taken(tensor: ir.TensorProtocol, numbers: np.ndarray, axis: int) -> ir.LazyTensor:
    """These rows or columns of a tensor, read when it is written."""
    shape = list(tensor.shape.numpy())
    shape[axis] = len(numbers)
    return lazily(lambda: np.ascontiguousarray(np.take(read(tensor), numbers, axis=axis)), tensor.dtype, shape)


@dataclass
class Narrowing:
    """A walk from the results of some linears to `down`. It changes nothing before `apply`; `reasons` says why not."""

    graph: ir.Graph
    down: ir.Node
    block: int
    made_by: str
    reasons: list[str] = field(default_factory=list)
    _changes: list[Callable[[], object]] = field(default_factory=list)
    _seen: dict[ir.Value, Parts] = field(default_factory=dict)

    def follow(self, value: ir.Value, parts: Parts) -> None:
        """Walk on from a value with these columns."""
        pending = [(value, parts)]
        while pending:
            value, parts = pending.pop()
            if value in self._seen or all(part.kept is None for part in parts):
                if self._seen.get(value, parts) != parts:
                    self.reasons.append(f"{value.name}: holds other columns on another way")
                continue
            self._seen[value] = parts
            self._declare(value, parts)
            if value.is_graph_output():
                self.reasons.append(f"{value.name}: leaves the graph")
            for node, slot in value.uses():
                if node is self.down and slot == 0:
                    continue
                pending.extend(self._through(node, slot, parts))

    def apply(self) -> None:
        """Make the changes found."""
        for change in self._changes:
            change()

    def _through(self, node: ir.Node, slot: int, parts: Parts) -> Iterator[tuple[ir.Value, Parts]]:
        """What a node that reads such columns gives, and the columns of that."""
        match node.op_type:
            case "Shape":
                return
            case "Split" if slot == 0 and _last(node, "axis", 0):
                yield from self._split(node, parts)
            case "Slice" if slot == 0:
                yield from self._slice(node, parts)
            case "Reshape" if slot == 0:
                yield from self._reshape(node, parts)
            case op if op in _BY_COLUMN:
                self._vectors(node, parts)
                yield from ((output, parts) for output in node.outputs)
            case _:
                self._refuse(node, "is no operator that is known to leave columns apart")

    def _split(self, node: ir.Node, parts: Parts) -> Iterator[tuple[ir.Value, Parts]]:
        attribute = node.attributes.get("split")
        sizes = list(attribute.as_ints()) if attribute is not None else _numbers(node, 1)
        whole = sum(part.before for part in parts)
        even = sizes is None and len(node.inputs) < 2
        groups = _grouped(parts, [whole // len(node.outputs)] * len(node.outputs) if even else sizes or [])
        if groups is None or (even and len({_after(group) for group in groups}) > 1):
            self._refuse(node, "does not split where its parts lie")
            return
        if attribute is not None:
            new = ir.AttrInt64s("split", list(map(_after, groups)))
            self._changes.append(partial(node.attributes.__setitem__, "split", new))
        elif not even:
            self._numbers(node, 1, list(map(_after, groups)))
        yield from zip(node.outputs, groups, strict=True)

    def _slice(self, node: ir.Node, parts: Parts) -> Iterator[tuple[ir.Value, Parts]]:
        whole = sum(part.before for part in parts)
        columns = {value: sum(part.before for part in held) for value, held in self._seen.items()}
        starts, stops = (size_of(node.inputs[slot], columns) for slot in (1, 2))
        axes, steps = (_numbers(node, slot) for slot in (3, 4))
        rank = rank_of(node.inputs[0])
        if not starts or not stops or axes not in ([-1], [rank - 1]) or steps not in (None, [1]) or starts[0] < 0:
            self._refuse(node, "slices what is not columns, or where is not said")
            return
        start, stop = starts[0], min(stops[0] if stops[0] >= 0 else whole + stops[0], whole)
        groups = _grouped(parts, [size for size in (start, stop - start, whole - stop) if size > 0])
        if groups is None:
            self._refuse(node, "does not cut where its parts lie")
            return
        place = 1 if start else 0
        first = sum(map(_after, groups[:place]))
        self._numbers(node, 1, [first])
        self._numbers(node, 2, [first + _after(groups[place])])
        yield node.outputs[0], groups[place]

    def _reshape(self, node: ir.Node, parts: Parts) -> Iterator[tuple[ir.Value, Parts]]:
        whole, after = sum(part.before for part in parts), _after(parts)
        shape = node.inputs[1]
        maker = shape.producer() if shape is not None else None
        numbers = _numbers(node, 1)
        joined = maker is not None and maker.op_type == "Concat"
        if joined and maker is not None:
            shape, numbers = maker.inputs[-1], _numbers(maker, len(maker.inputs) - 1)
        if numbers is None and _asked(shape) in self._seen:
            pass  # asked of a value that has as many columns
        elif not numbers or numbers[-1] not in (-1, 0, whole):
            self._refuse(node, "gives columns another axis")
            return
        elif numbers[-1] == whole and joined and maker is not None:
            self._changes.append(partial(self._other_shape, node, maker, [*numbers[:-1], after]))
        elif numbers[-1] == whole:
            self._numbers(node, 1, [*numbers[:-1], after])
        yield node.outputs[0], parts

    def _other_shape(self, node: ir.Node, concat: ir.Node, last: list[int]) -> None:
        """A Concat of the node's own with other last numbers: blocks of equal widths may have shared the old one."""
        name = f"{node.name or node.outputs[0].name}/narrower"
        value = add_initializer(self.graph, f"{name}.sizes", _tensor(last))
        marks = {MADE_BY: self.made_by, BLOCK: str(self.block)}
        made = ir.Node("", "Concat", [*concat.inputs[:-1], value], [ir.AttrInt64("axis", 0)], name=name,
                       metadata_props=marks)
        made.outputs[0].name = f"{name}/output_0"
        made.outputs[0].type, made.outputs[0].shape = concat.outputs[0].type, concat.outputs[0].shape
        self.graph.insert_before(node, made)
        node.replace_input_with(1, made.outputs[0])

    def _vectors(self, node: ir.Node, parts: Parts) -> None:
        """What else the node reads with a number for each column."""
        whole, kept = sum(part.before for part in parts), columns_kept(parts)
        for slot, value in enumerate(node.inputs):
            tensor = ir.convenience.get_const_tensor(value) if value is not None else None
            if tensor is None or value is None or not len(tensor.shape) or tensor.shape.numpy()[-1] == 1:
                continue
            if tensor.shape.numpy()[-1] != whole:
                self._refuse(node, f"reads {value.name} {list(tensor.shape)}, which does not fit {whole} columns")
            else:
                new = taken(tensor, kept, len(tensor.shape) - 1)
                self._changes.append(partial(self._put, node, slot, new))

    def _numbers(self, node: ir.Node, slot: int, numbers: list[int]) -> None:
        self._changes.append(partial(self._put, node, slot, _tensor(numbers)))

    def _put(self, node: ir.Node, slot: int, tensor: ir.TensorProtocol) -> None:
        old = node.inputs[slot]
        if old is not None and old.is_initializer():
            set_initializer(self.graph, node, slot, tensor)
        else:  # of a Constant, that others may read
            name = f"{node.name or node.outputs[0].name}.{slot}"
            node.replace_input_with(slot, add_initializer(self.graph, name, tensor))

    def _declare(self, value: ir.Value, parts: Parts) -> None:
        shape = value.shape
        if shape is None or not len(shape) or not isinstance(shape[-1], int):
            return
        if shape[-1] != sum(part.before for part in parts):
            self.reasons.append(f"{value.name}: has {shape[-1]} columns, not {sum(part.before for part in parts)}")
        new = ir.Shape([*shape.dims[:-1], _after(parts)])
        self._changes.append(partial(setattr, value, "shape", new))

    def _refuse(self, node: ir.Node, why: str) -> None:
        self.reasons.append(f"block.{self.block:02d}.mlp: {node.name or node.op_type} ({node.op_type}) {why}")


def _after(parts: Sequence[Part]) -> int:
    return sum(part.after for part in parts)


def _grouped(parts: Parts, sizes: Sequence[int]) -> list[Parts] | None:
    """The parts in runs of these sizes; None where the sizes cut through one, or are not all."""
    groups, left = [], list(parts)
    for size in sizes:
        group: list[Part] = []
        while left and sum(part.before for part in group) < size:
            group.append(left.pop(0))
        if sum(part.before for part in group) != size:
            return None
        groups.append(tuple(group))
    return None if left or not groups else groups


def _numbers(node: ir.Node, slot: int) -> list[int] | None:
    return numbers_of(node.inputs[slot]) if slot < len(node.inputs) else None


def _asked(size: ir.Value | None) -> ir.Value | None:
    """The value whose shape, or an axis of it, this is."""
    node = size.producer() if size is not None else None
    while node is not None and node.op_type in ("Unsqueeze", "Squeeze", "Gather", "Slice", "Cast", "Reshape"):
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return node.inputs[0] if node is not None and node.op_type == "Shape" else None


def _tensor(numbers: Sequence[int]) -> ir.TensorProtocol:
    return ir.tensor(np.array(numbers, dtype=np.int64))


def _last(node: ir.Node, name: str, default: int) -> bool:
    attribute = node.attributes.get(name)
    return (attribute.as_int() if attribute is not None else default) in (-1, rank_of(node.inputs[0]) - 1)
