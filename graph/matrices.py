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


def few_bits(node: ir.Node) -> Matrix | None:
    """The matrix of a MatMulNBits, as its attributes say; None for any other node."""
    if node.op_type != "MatMulNBits" or not {"K", "N"} <= node.attributes.keys():
        return None
    bits = node.attributes["bits"].as_int() if "bits" in node.attributes else 4
    return Matrix((node.attributes["K"].as_int(), node.attributes["N"].as_int()), f"int{bits}")


def matrix_of(node: ir.Node) -> Matrix | None:
    """The matrix of a MatMul of an initializer [in, out], or of a MatMulNBits."""
    value = node.inputs[1] if len(node.inputs) > 1 else None
    tensor = value.const_value if value is not None else None
    if node.op_type == "MatMul" and tensor is not None and len(tensor.shape) == 2:
        rows, columns = tensor.shape.numpy()
        return Matrix((rows, columns), tensor.dtype.numpy().name)
    return few_bits(node)
