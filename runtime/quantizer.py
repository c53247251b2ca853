"""ONNX Runtime's own quantizer of weights, as a function from one matrix to what MatMulNBits reads.

Axes: K inputs, N outputs, G blocks of `block_size` inputs.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldrank.errors import ProviderUnavailable
from foldrank.runtime.providers.provider import load_onnxruntime


def quantize(
    weight_KN: NDArray[Any], bits: int, block_size: int, symmetric: bool
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8] | None]:
    """Numbers [N, G, block_size * bits / 8], scales [N, G], and zero points [N, G * bits / 8 rounded up] or None.

    Raises ProviderUnavailable where onnxruntime, or its quantizer, is not installed.
    """
    library = _library()
    config = library.DefaultWeightOnlyQuantConfig(block_size=block_size, is_symmetric=symmetric, bits=bits)
    whole = np.ascontiguousarray(weight_KN, dtype=np.float32)
    numbers, scales, zeros = library.DefaultWeightOnlyQuantizer(config).qbits_block_quant(whole)
    return numbers, scales, None if symmetric else zeros


def _library() -> Any:
    """The module that has it. Loading it sets up the logging of the whole program, which is put back: whoever runs
    foldrank says what is logged."""
    load_onnxruntime()
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    try:
        from onnxruntime.quantization import matmul_nbits_quantizer
    except ImportError as error:
        what = f"its quantizer does not load: {error}"
        raise ProviderUnavailable("onnxruntime", what, "reinstall it: `foldrank doctor`") from None
    root.handlers[:] = handlers
    root.setLevel(level)
    return matmul_nbits_quantizer
