"""Bundles that every consumer gets: of two exporters, dense and compressed by one plan, of the tiny Llama."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

METHODS = ["slm:keep=0.84,windows=2,tokens=128", "dipsvd:keep=0.7,align=1,ratios=uniform"]
Bundles = dict[str, Path]


@pytest.fixture(scope="session")
def squeezed(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Bundles], Bundles]:
    """Dense bundles of the tiny Llama to compressed ones, by name, all by one plan."""
    from foldrank.verbs.apply import apply
    from foldrank.verbs.plan import plan

    checkpoint = tiny_models / "llama" / "checkpoint"
    once = plan(checkpoint, methods=METHODS, calibration_tokens=1024)
    folder = tmp_path_factory.mktemp("squeezed")
    return lambda dense: {name: apply(path, once, folder / name).path for name, path in dense.items()}


@pytest.fixture(scope="session")
def bundles(
    tiny_models: Path, traced_llama: Path, squeezed: Callable[[Bundles], Bundles],
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundles:
    """By name: GroupQueryAttention (genai) and standard operators (transformers), each also compressed. Read only."""
    pytest.importorskip("onnxruntime_genai")
    from foldrank.verbs.export import export

    checkpoint = tiny_models / "llama" / "checkpoint"
    genai = export(checkpoint, tmp_path_factory.mktemp("dense") / "genai", exporter="genai").path
    dense = {"genai": genai, "standard": traced_llama}
    return dense | {f"{name}-small": path for name, path in squeezed(dense).items()}


@pytest.fixture(scope="session")
def in_few_bits(tiny_models: Path, bundles: Bundles, tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """The dense ones with all they hold stored in few bits, as standard operators."""
    from foldrank.verbs.apply import apply
    from foldrank.verbs.plan import plan

    folder = tmp_path_factory.mktemp("few")
    once = plan(tiny_models / "llama" / "checkpoint", methods=["quantize:form=qdq,block_size=16,symmetric=false"],
                calibration_tokens=256)
    return {name: apply(bundles[name], once, folder / name).path for name in ("genai", "standard")}


@pytest.fixture(scope="session")
def node_modules(root: Path) -> Path:
    """Where npm put onnxruntime-node and transformers.js (`make consumers`)."""
    folder = Path(os.environ.get("FOLDRANK_NODE_MODULES", root / ".venv-consumers" / "node" / "node_modules"))
    if shutil.which("node") is None or not folder.is_dir():
        pytest.skip("needs Node and its packages: make consumers")
    return folder
