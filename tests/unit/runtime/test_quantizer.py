"""ONNX Runtime's quantizer, as a guest in somebody's program."""

import subprocess
import sys

PROGRAM = """
import logging
import numpy as np
from foldrank.runtime.quantizer import quantize
before = logging.getLogger().handlers[:], logging.getLogger().level
quantize(np.ones((32, 8), np.float32), 4, 32, True)
assert "onnxruntime.quantization.matmul_nbits_quantizer" in __import__("sys").modules
assert (logging.getLogger().handlers, logging.getLogger().level) == before, logging.getLogger().handlers
"""


def test_it_leaves_the_program_s_logging_as_it_was() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
