"""Fixtures every test may use: the bundled model, and small ones made once per test run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # processes side by side share the cores

MANY = 20
"""Documents that take long to encode."""
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def warm_exporters() -> Iterator[None]:
    """Exports in this process are forked from a server that has imported what they need (warm.py)."""
    import warm

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("foldrank.export.child._run", warm.run)
        yield


@pytest.fixture(scope="session", autouse=True)
def texts_encoded_once() -> Iterator[None]:
    """Windows are drawn from a whole text, which each plan and each report would encode anew: here once for each
    tokenizer."""
    from foldrank.plans import texts

    encoded, known = texts.encoded, dict[tuple[str, ...], list[list[int]]]()

    def once(tokenizer: Any, documents: list[str]) -> list[list[int]]:
        if not getattr(tokenizer, "is_fast", False) or len(documents) < MANY:
            return encoded(tokenizer, documents)
        key = (tokenizer.backend_tokenizer.to_str(), *documents)
        if key not in known:
            known[key] = encoded(tokenizer, documents)
        return known[key]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(texts, "encoded", once)
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def specs_5m() -> Path:
    """The bundled real checkpoint: a 12-block Llama, fp16 weights."""
    return ROOT / "examples" / "specs-5m"


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FAMILY/checkpoint, random, and FAMILY/optimum, the graph that optimum-onnx makes of it, of each family that
    optimum_graphs.py has. Nobody may write into it."""
    pytest.importorskip("transformers")
    from optimum_graphs import write_all

    return _once(tmp_path_factory, "tiny", write_all)


@pytest.fixture(scope="session")
def dense_5m(specs_5m: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense fp32 bundle of the bundled checkpoint, exported once per test run. Nobody may write into it."""
    from foldrank.verbs.export import export

    return _once(tmp_path_factory, "dense", lambda folder: export(specs_5m, folder, dtype="fp32", offline=True))


@pytest.fixture(scope="session")
def traced_llama(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama through the transformers exporter, once per test run: half a minute."""
    pytest.importorskip("transformers.exporters")
    from foldrank.verbs.export import export

    checkpoint = tiny_models / "llama" / "checkpoint"
    return _once(tmp_path_factory, "traced", lambda folder: export(checkpoint, folder, exporter="transformers",
                                                                   offline=True))


def _once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Any]) -> Path:
    """A folder that the first of the test processes to ask for it makes, whole or not at all, for all of them."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    with FileLock(root / f"{name}.lock"):
        if not (root / name).exists():
            make(root / name)
    return root / name
