"""The anatomy of a graph's decoder, whatever exporter wrote it and whatever passes have been there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
from pydantic import ValidationError

from foldrank.edits.anatomy import Anatomy, BlockAnatomy, Matrix
from foldrank.edits.base import BRANCHES
from foldrank.edits.storage import FewBits
from foldrank.graph.linear.beside import pairs_beside
from foldrank.graph.linear.gains import gain_at
from foldrank.graph.linear.head import factor_of_head, factor_of_table
from foldrank.graph.linear.linears import stored_matrix
from foldrank.graph.linear.marks import CENTRE, PART, SITE
from foldrank.graph.linear.matrices import Dequantized, dequantized_weight, few_bits, stored_as
from foldrank.graph.linear.norms import norm_parameters
from foldrank.graph.linear.tables import table_of
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.blocks import Block, role_widths
from foldrank.graph.view.branches import reached
from foldrank.graph.view.decoder import Decoder
from foldrank.graph.view.skip_norms import read_apart
from foldrank.sites import ROLES, Site


def anatomy_of(path: Path) -> Anatomy:
    """That of a graph file. Raises UnsafeModel, GraphNotRecognized."""
    return read_anatomy(read_apart(load_model(path)))


def read_anatomy(decoder: Decoder) -> Anatomy:
    """What the decoder is made of. Matrices that cannot be read (other storage) are named alone."""
    geometry = decoder.heads, decoder.kv_heads, decoder.head_size
    blocks = tuple(_block(block, geometry) for block in decoder.blocks)
    return Anatomy(blocks, _head(decoder.head), decoder.tied, *geometry, _table(decoder.lookups), _rotated(decoder),
                   _centred(decoder), _table_rank(decoder.lookups))


def _rotated(decoder: Decoder) -> int | str | None:
    """The width of what turns the stream; in words, unless one product stands before the first block, and one more
    behind the last."""
    if not decoder.rotations:
        return None
    behind = reached(decoder.boundaries[-1], None)
    first, last = decoder.rotations[0], decoder.rotations[-1]
    placed = len(decoder.rotations) == 2 and any(value in decoder.boundaries[0] for value in first.outputs)
    widths = {matrix.shape for node in decoder.rotations if (matrix := stored_matrix(node)) is not None}
    shape = widths.pop() if len(widths) == 1 else (0, 1)
    if not placed or last not in behind or decoder.inside & set(decoder.rotations) or shape[0] != shape[1]:
        return f"multiplied by {', '.join(str(node.name) for node in decoder.rotations)}"
    return shape[0]


def _centred(decoder: Decoder) -> bool | str:
    """Whether the mean is taken off what enters the first block, perhaps before it is turned; in words, where a norm of
    the stream takes it away all the same."""
    turning = {value for node in decoder.rotations for value in node.inputs[:1]}
    makers = [value.producer() for value in (*decoder.boundaries[0], *turning) if value is not None]
    if not any(maker is not None and maker.metadata_props.get(PART) == CENTRE for maker in makers):
        return False
    behind = [node for node in reached(decoder.boundaries[-1], None) if node not in decoder.inside]
    norms = *(place for block in decoder.blocks for place in block.norms), *norm_parameters(behind)
    odd = [place[0].name for place in norms
           if (gain := gain_at(place)) is None or (not gain.of_rms and gain.width != decoder.head_size)]
    return f"but for {', '.join(map(str, odd))}" if odd else True


def _block(block: Block, geometry: tuple[int, int, int]) -> BlockAnatomy:
    beside = pairs_beside(block.nodes)
    found = {role: replace(matrix, beside=beside.get(role)) for role, matrix
             in sorted(_matrices(block, geometry), key=lambda item: ROLES.index(item[0]))}
    made = BlockAnatomy(block.number, found, unread=block.unread)
    if block.kv is None or made.has_cache:
        return made
    return replace(made, unread=block.unread | set(BRANCHES["attention"]))  # a KV pair says that it is there


def _matrices(block: Block, geometry: tuple[int, int, int]) -> Iterator[tuple[str, Matrix]]:
    for linear in block.linears:
        for role, width in zip(linear.roles, linear.widths, strict=True):
            yield role, Matrix((linear.shape[0], width), stored=linear.weight.name, packed=linear.roles,
                               dtype=linear.tensor.dtype.numpy().name)
    for few in block.few_bits:
        numbers = stored_as(few.node)
        for role, width in zip(few.roles, few.widths, strict=True):
            yield role, Matrix((few.matrix.shape[0], width), None, _storage(few.node), packed=few.roles,
                               stored=None if numbers is None else numbers[0].name, dtype=few.matrix.dtype)
    stored = _pair_storage(block)
    for pair in block.pairs:
        packed = {role: site.roles for site in pair.sites for role in site.roles}
        for role, width in zip(packed, role_widths(tuple(packed), pair.shape[1], geometry), strict=True):
            few_bits, basis = stored[pair.sites[0]]
            yield role, Matrix((pair.shape[0], width), pair.rank, few_bits, basis=basis, packed=packed[role],
                               dtype=pair.a.dtype)


def _pair_storage(block: Block) -> dict[Site, tuple[FewBits | str | None, str]]:
    """In what both factors of each pair are stored ("mixed" where they differ), and the name of A's numbers."""
    parts: dict[Site, dict[str, ir.Node]] = {}
    for node in block.nodes:
        if (part := node.metadata_props.get(PART)) in ("A", "B"):
            parts.setdefault(Site.parse(node.metadata_props[SITE].split(",")[0]), {})[str(part)] = node
    found: dict[Site, tuple[FewBits | str | None, str]] = {}
    for site, nodes in parts.items():
        stored = [_storage(node) for node in nodes.values()]
        basis = nodes["A"].inputs[1] if "A" in nodes else None
        found[site] = stored[0] if stored.count(stored[0]) == len(stored) else "mixed", str(basis and basis.name)
    return found


def _storage(node: ir.Node) -> FewBits | str | None:
    """The few bits of a node's matrix; in words where no edit stores any in that way; None where it is of floats."""
    matrix = few_bits(node)
    if matrix is None:
        return None
    if (behind := dequantized_weight(node)) is not None:
        return _behind(behind, matrix.dtype)
    zeros = len(node.inputs) > 3 and node.inputs[3] is not None
    numbers = {name: node.attributes[name].as_int() if name in node.attributes else default
               for name, default in (("bits", 4), ("block_size", 0), ("accuracy_level", 0))}
    try:
        return FewBits(numbers["bits"], numbers["block_size"], not zeros, numbers["accuracy_level"])  # type: ignore[arg-type]
    except ValidationError:
        return f"{numbers['bits']} bits, blocks of {numbers['block_size']}, accuracy {numbers['accuracy_level']}"


def _behind(found: Dequantized, dtype: str) -> FewBits | str:
    """As form `qdq` has it, or in words: turned, by columns, unsigned without zero points or signed with them."""
    kind = None if found.numbers.const_value is None else found.numbers.const_value.dtype
    symmetric = found.zero is None
    if found.axis == 0 and not found.transposed and kind is not None and kind.is_signed() == symmetric:
        try:
            return FewBits(kind.bitwidth, found.block_size, symmetric, 0, "qdq")  # type: ignore[arg-type]
        except ValidationError:
            pass
    return f"{dtype} behind a DequantizeLinear"


def _table(lookups: tuple[ir.Node, ...]) -> FewBits | str | None:
    """The few bits of the table of words: activations are none of its matter."""
    table = next((found for node in lookups if (found := table_of(node)) is not None), None)
    if table is None:
        return None
    try:
        return FewBits(table.bits, table.block_size, table.symmetric, 0, table.form)  # type: ignore[arg-type]
    except ValidationError:
        return f"{table.bits} bits, blocks of {table.block_size}"


def _head(node: ir.Node | None) -> Matrix | None:
    if node is None:
        return None
    if (matrix := few_bits(node)) is not None:
        return Matrix(matrix.shape, few_bits=_storage(node))
    stored, factor = stored_matrix(node), factor_of_head(node)
    if stored is None or factor is None:
        return None if stored is None else Matrix(stored.shape)
    return Matrix((factor.shape[0], stored.shape[1]), factor.shape[1])


def _table_rank(lookups: tuple[ir.Node, ...]) -> int | None:
    """Of the pair in the place of the table of words."""
    return next((factor.shape[0] for node in lookups if (factor := factor_of_table(node)) is not None), None)
