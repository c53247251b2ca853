"""Digests of files and of weights: how a plan knows the model it was made for.

A weight's digest is taken over its values in [in, out] order after rounding to each dtype an exporter may store,
so that a graph cast to fp16 or bf16 is proved exactly too, without keeping the weight.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import ml_dtypes
import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from foldrank.plainfile import open_plain

T = TypeVar("T")
R = TypeVar("R")

WORKERS = 8
"""Most threads of `in_threads`: each holds a weight or two."""

DTYPES: dict[str, np.dtype[Any]] = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
}


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes. Raises OSError."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def in_threads(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """The function of every item, in order, on as many threads as there are processors: casting and hashing large
    arrays leave the interpreter lock alone."""
    with ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))


def sha256_array(weight: np.ndarray[Any, Any]) -> str:
    """Hex sha256 of the array's bytes in C order, little endian."""
    return hashlib.sha256(np.ascontiguousarray(weight).view(np.uint8).data).hexdigest()


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class WeightDigest:
    """sha256 of one weight W [in, out] as each stored dtype would hold it."""

    fp32: str
    fp16: str
    bf16: str

    @classmethod
    def of(cls, weight: np.ndarray[Any, Any]) -> WeightDigest:
        """Digest of W [in, out], rounded to nearest even from its own dtype to each stored one."""
        return cls.of_combination([weight], [1.0])

    @classmethod
    def of_combination(
        cls, weights: Sequence[np.ndarray[Any, Any]], coefficients: Sequence[float]
    ) -> WeightDigest:
        """Digest of `combine` of the weights, each first rounded to the stored dtype, as a graph holds them."""
        return cls(**{
            name: sha256_array(combine([cast(w, dtype) for w in weights], coefficients))
            for name, dtype in DTYPES.items()
        })

    def matches(self, weight: np.ndarray[Any, Any]) -> bool:
        """Whether W, of one of the stored dtypes, has this digest."""
        for name, dtype in DTYPES.items():
            if weight.dtype == dtype:
                return bool(getattr(self, name) == sha256_array(weight))
        return False


def cast(weight: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Round to `dtype`, to nearest even; beyond its range gives infinity, as exporters do."""
    if weight.dtype == dtype:
        return weight
    with np.errstate(over="ignore"):
        return weight.astype(dtype)


def fits(weight: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> bool:
    """Whether every number is finite still as `cast` rounds it: fp16 ends at 65,504, and from 65,520 on gives
    infinity."""
    return bool(np.isfinite(cast(weight, dtype)).all())


def combine(
    weights: Sequence[np.ndarray[Any, Any]], coefficients: Sequence[float]
) -> np.ndarray[Any, Any]:
    """Sum of c_i * W_i over equal shapes and dtypes, in float64, in the order given, rounded once to their dtype.

    One weight with coefficient 1 comes back bit for bit. Terms with coefficient 0 are not touched.
    """
    terms = [(c, w) for c, w in zip(coefficients, weights, strict=True) if c != 0.0]
    if not terms:
        return np.zeros_like(weights[0])
    if len(terms) == 1 and terms[0][0] == 1.0:
        return terms[0][1]
    total = np.zeros(terms[0][1].shape, dtype=np.float64)
    for coefficient, weight in terms:
        total += coefficient * weight.astype(np.float64)
    return total.astype(terms[0][1].dtype)
