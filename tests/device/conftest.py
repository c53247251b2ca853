"""Needs a GPU and what computes on it; skipped elsewhere."""

import pytest

from foldrank.errors import ProviderUnavailable
from foldrank.runtime.providers.provider import resolve


@pytest.fixture(scope="session")
def cuda() -> None:
    """An NVIDIA GPU and onnxruntime-gpu."""
    try:
        resolve("cuda")
    except ProviderUnavailable as reason:
        pytest.skip(str(reason))
