"""What a linear map's matrix is, floats or numbers of few bits, told without reading it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True)
class Matrix:
    """(in, out) of y = x @ W, and what W is stored as: ONNX's name of a float type, or int4, int8."""

    shape: tuple[int, int]
    dtype: str

    @property
    def numbers(self) -> int:
        """How many weights it holds."""
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True)
class Dequantized:
    """What a DequantizeLinear makes a MatMul's weight of; `transposed` where that is [out, in]."""

    node: ir.Node
    numbers: ir.Value
    scale: ir.Value
    zero: ir.Value | None
    axis: int
    block_size: int
    transposed: bool

    @property
    def blocked(self) -> bool:
        """Whether several numbers of a column share a scale: ONNX Runtime makes a MatMulNBits of it then."""
        return self.block_size > 0


def few_bits(node: ir.Node) -> Matrix | None:
    """The matrix of a MatMulNBits, as its attributes say, or of a MatMul or Gemm behind a DequantizeLinear; None for
    any other node."""
    if (found := dequantized_weight(node)) is not None:
        assert found.numbers.const_value is not None
        rows, columns = found.numbers.const_value.shape.numpy()
        name = found.numbers.const_value.dtype.name.lower()
        return Matrix((columns, rows) if found.transposed else (rows, columns), name.removeprefix("u"))
    if node.op_type != "MatMulNBits" or not {"K", "N"} <= node.attributes.keys():
        return None
    bits = node.attributes["bits"].as_int() if "bits" in node.attributes else 4
    return Matrix((node.attributes["K"].as_int(), node.attributes["N"].as_int()), f"int{bits}")


def dequantized_weight(node: ir.Node) -> Dequantized | None:
    """What the weight of a MatMul or Gemm is stored as behind a DequantizeLinear (a Transpose may stand between)."""
    if node.op_type not in ("MatMul", "Gemm") or node.domain or len(node.inputs) < 2:
        return None
    turned = bool(node.op_type == "Gemm" and _integer(node, "transB", 0))
    maker = node.inputs[1].producer() if node.inputs[1] is not None else None
    if maker is not None and maker.op_type == "Transpose" and maker.inputs[0] is not None:
        maker, turned = maker.inputs[0].producer(), not turned
    if maker is None or maker.op_type != "DequantizeLinear":
        return None
    numbers, scale, zero = [*maker.inputs, None][:3]
    if numbers is None or scale is None or numbers.const_value is None or len(numbers.const_value.shape) != 2:
        return None
    axis, block_size = _integer(maker, "axis", 1), _integer(maker, "block_size", 0)
    return Dequantized(maker, numbers, scale, zero, axis, block_size, turned)


def stored_as(node: ir.Node) -> tuple[ir.Value, tuple[ir.Value, ...]] | None:
    """The numbers of a weight in few bits, and their scales and zero points; None for any other node."""
    if (found := dequantized_weight(node)) is not None:
        return found.numbers, tuple(value for value in (found.scale, found.zero) if value is not None)
    if few_bits(node) is None or node.inputs[1] is None:
        return None
    return node.inputs[1], tuple(value for value in node.inputs[2:4] if value is not None)


def _integer(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return attribute.as_int() if attribute is not None else default


def matrix_of(node: ir.Node) -> Matrix | None:
    """The matrix of a MatMul of an initializer [in, out], or of a MatMulNBits."""
    value = node.inputs[1] if len(node.inputs) > 1 else None
    tensor = value.const_value if value is not None else None
    if node.op_type == "MatMul" and tensor is not None and len(tensor.shape) == 2:
        rows, columns = tensor.shape.numpy()
        return Matrix((rows, columns), tensor.dtype.numpy().name)
    return few_bits(node)
