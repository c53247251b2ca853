"""Greedy tokens of a bundle as three consumers continue one prompt: foldrank itself, onnxruntime-genai, optimum."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.decoding.genai import GenaiDecoder
from foldrank.runtime.providers.provider import resolve

ROOT = Path(__file__).resolve().parents[2]
PROMPT, COUNT = [72, 101, 108, 108, 111, 32], 10


def optimum_python() -> Path | None:
    """The interpreter that has optimum-onnx, where there is one (`make optimum-env`)."""
    path = Path(os.environ.get("FOLDRANK_OPTIMUM_PYTHON", ROOT / ".venv-optimum" / "bin" / "python"))
    return path if path.is_file() else None


def own_tokens(bundle: Path, prompt: Sequence[int] = PROMPT) -> list[int]:
    """With ONNX Runtime, step by step."""
    return _greedy(OrtDecoder.open(bundle, resolve("cpu"), threads=1), prompt)


def genai_tokens(bundle: Path) -> list[int]:
    """With onnxruntime-genai's generator. Raises SourceError where it cannot load the bundle."""
    return _greedy(GenaiDecoder.open(bundle, resolve("cpu"), capacity=len(PROMPT) + COUNT + 1, threads=1))


def optimum_tokens(python: Path, bundles: Sequence[Path]) -> dict[Path, list[int] | str]:
    """With ORTModelForCausalLM.generate, one process for all bundles; an error is told in words."""
    found = optimum_rows(python, bundles, [PROMPT])
    return {bundle: rows if isinstance(rows, str) else rows[0] for bundle, rows in found.items()}


def optimum_rows(
    python: Path, bundles: Sequence[Path], prompts: Sequence[Sequence[int]]
) -> dict[Path, list[list[int]] | str]:
    """The same of several prompts in one batch, padded on the left."""
    program = str(Path(__file__).with_name("optimum_load.py"))
    command = [str(python), program, json.dumps(prompts), str(COUNT), *map(str, bundles)]
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=quiet)
    if done.returncode:
        raise AssertionError(done.stderr[-2000:])
    found = json.loads(done.stdout.splitlines()[-1])
    return {bundle: found[str(bundle)] for bundle in bundles}


def _greedy(decoder: OrtDecoder | GenaiDecoder, prompt: Sequence[int] = PROMPT) -> list[int]:
    decoder.prepare(1)
    found = [int(decoder.first(np.array([prompt], dtype=np.int64))[0])]
    return found + [int(decoder.next()[0]) for _ in range(COUNT - 1)]
