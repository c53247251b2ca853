"""factors.safetensors from a stranger: every way in which its header can lie is refused, and NaN never gets out."""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foldrank.errors import PlanFormatError
from foldrank.planfile.factors import FactorFile, write_factors

A = np.arange(6, dtype="<f4").reshape(2, 3)
B = np.arange(4, dtype="<f4").reshape(4, 1)


def written(path: Path, header: Any, data: bytes) -> FactorFile:
    """Open a file with that header, its digest as it should be."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return FactorFile.open(path, hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)


def entry(start: int, end: int, shape: list[Any], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_what_write_factors_writes_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_factors(path, {"A": A, "B": B.astype(np.float64)})
    found = FactorFile.open(path, hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)
    assert sorted(found) == ["A", "B"]
    assert np.array_equal(found["A"], A)
    assert np.array_equal(found["B"], B)


def test_a_plain_header_written_by_hand_is_read(tmp_path: Path) -> None:
    found = written(tmp_path / "f", {"A": entry(0, 24, [2, 3]), "B": entry(24, 40, [4, 1])}, A.tobytes() + B.tobytes())
    assert np.array_equal(found["B"], B)


@pytest.mark.parametrize(("header", "says"), [
    ({"A": entry(0, 24, [2, 3]), "B": entry(20, 36, [4, 1])}, "overlap"),
    ({"A": entry(0, 24, [2, 3])}, "data ends at"),
    ({"B": entry(24, 40, [4, 1])}, "hole"),
    ({"A": entry(0, 24, [3, 3]), "B": entry(24, 40, [4, 1])}, "does not fit"),
    ({"A": entry(0, 24, [2, 3], "F64"), "B": entry(24, 40, [4, 1])}, "not F32"),
    ({"A": entry(0, 24, [-2, -3]), "B": entry(24, 40, [4, 1])}, "does not fit"),
    ({"A": entry(0, 24, [True, 6]), "B": entry(24, 40, [4, 1])}, "does not fit"),
    ({"A": entry(0, 24, [2.0, 3]), "B": entry(24, 40, [4, 1])}, "does not fit"),
    ({"A": entry(0, 1 << 40, [1 << 38]), "B": entry(24, 40, [4, 1])}, "hole|overlap|ends"),
    ({"A": {"dtype": "F32"}}, "header"),
    ([], "not an object"),
    (b"{", "not JSON"),
    (b'{"A": {}, "A": {}}', "twice"),
    (b"[" * 5000, "levels"),
])
def test_a_header_that_lies_is_refused(tmp_path: Path, header: Any, says: str) -> None:
    with pytest.raises(PlanFormatError, match=says):
        written(tmp_path / "f", header, A.tobytes() + B.tobytes())


def test_a_header_longer_than_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    with pytest.raises(PlanFormatError, match="it claims"):
        FactorFile.open(path, hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_when_read(tmp_path: Path, bad: float) -> None:
    found = written(tmp_path / "f", {"A": entry(0, 4, [1])}, np.array([bad], "<f4").tobytes())
    with pytest.raises(PlanFormatError, match="NaN or infinity"):
        found["A"]


def test_a_symlink_is_refused(tmp_path: Path) -> None:
    write_factors(tmp_path / "real", {"A": A})
    (tmp_path / "f").symlink_to(tmp_path / "real")
    size = (tmp_path / "real").stat().st_size
    with pytest.raises(PlanFormatError, match="is a link"):
        FactorFile.open(tmp_path / "f", hashlib.sha256((tmp_path / "real").read_bytes()).hexdigest(), size)


def test_bytes_are_read_beside_floats(tmp_path: Path) -> None:
    few = np.arange(5, dtype=np.uint8)
    header = {"A": entry(0, 24, [2, 3]), "Q": entry(24, 29, [5, 1], "U8")}
    found = written(tmp_path / "f", header, A.tobytes() + few.tobytes())
    assert (found.in_bytes, found["Q"].dtype, found["A"].dtype) == ({"Q"}, np.uint8, np.float32)
    assert np.array_equal(found["Q"], few[:, None])
    write_factors(tmp_path / "g", {"A": A, "Q": few})
    path = tmp_path / "g"
    again = FactorFile.open(path, hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)
    assert np.array_equal(again["Q"], few)


@pytest.mark.parametrize(("dtype", "shape"), [
    ("U8", [2, 3]), ("U8", [25]), ("U8", [-24]), ("U8", [24, 0]), ("I8", [24]), ("U16", [12]), ("BOOL", [24]),
    (None, [24]),
    (["U8"], [24]),
])
def test_bytes_that_lie_are_refused(tmp_path: Path, dtype: Any, shape: list[Any]) -> None:
    with pytest.raises(PlanFormatError, match=r"does not fit|not F32|header"):
        written(tmp_path / "f", {"A": entry(0, 24, shape, dtype)}, A.tobytes())
