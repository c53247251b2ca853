"""Needs an NVIDIA GPU and onnxruntime-gpu; skipped elsewhere."""

import pytest

from foldrank.errors import ProviderUnavailable
from foldrank.runtime.providers.provider import resolve


@pytest.fixture(scope="session", autouse=True)
def cuda() -> None:
    try:
        resolve("cuda")
    except ProviderUnavailable as reason:
        pytest.skip(str(reason))
