"""Each verb that writes, on a tiny random model, for `every_verb.py`."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import every_verb
import pytest
from every_verb import Verb
from short_bench import SHORT
from tiny_families import TINY, save

from foldrank.bundle.bundle import Bundle
from foldrank.cli import main as command_line
from foldrank.planfile.plan import Plan
from foldrank.verbs import bench, goal, proving_windows

_PLANNING = ("--method", "shortgpt:keep=0.7", "--calibration-tokens", "512")


@contextlib.contextmanager
def verbs() -> Iterator[dict[str, Verb]]:
    """By name. Exporters run in forks; little is proved and measured; caches are the room's own."""
    with tempfile.TemporaryDirectory() as made, pytest.MonkeyPatch.context() as patched:
        base = Path(made)
        patched.setattr("foldrank.export.child._run", every_verb.exported_here)
        patched.setattr(bench, "QUICK", SHORT)
        patched.setattr(goal, "MOST_TOKENS", 512)
        patched.setattr(proving_windows, "MIN_POSITIONS", 256)
        for name, value in (("XDG_CACHE_HOME", str(base / "cache")), ("OMP_NUM_THREADS", "1")):
            patched.setenv(name, value)
        patched.delenv("FOLDRANK_NO_CACHE", raising=False)
        yield _verbs(base)


def _verbs(base: Path) -> dict[str, Verb]:
    import torch

    torch.set_num_threads(1)
    model, dense, plan, small = save(TINY["llama"], base / "model"), base / "dense", base / "plan", base / "small"
    key = _key(base)
    (base / "words.txt").write_text("The quick brown fox jumps over the lazy dog, and it says so. " * 120)
    for words in (["export", model, "-o", dense], ["plan", model, "-o", plan, *_PLANNING],
                  ["apply", dense, plan, "-o", small]):
        if code := command_line._run([*map(str, words), "-q"]):
            raise RuntimeError(f"{words[0]} ended with {code}")

    def words(*parts: object) -> list[str]:
        return [*map(str, parts), "-q"]

    known = {
        "export": Verb(lambda p: words("export", model, "-o", p / "out"), Bundle.open),
        "plan": Verb(lambda p: words("plan", model, "-o", p / "out", *_PLANNING, "--save-recipe", p / "recipe.yaml"),
                     Plan.read, beside=("recipe.yaml",)),
        "apply": Verb(lambda p: words("apply", dense, plan, "-o", p / "out"), Bundle.open),
        "package": Verb(lambda p: words("package", small, "--format", "transformers.js", "-o", p / "out"), _packaged),
        "report": Verb(lambda p: words("report", p / "out", "--png", p / "png"), Bundle.open, inside=small,
                       beside=("png",), forced=False),
        "validate": Verb(lambda p: words("validate", p / "out", "--reference", dense, "--no-proof", "--text",
                                         base / "words.txt"), Bundle.open, inside=small, forced=False),
        "cost-table": Verb(lambda p: words("bench", dense, "--cost-table", p / "out"), _json, forced=False),
        "sbom": Verb(lambda p: words("sbom", small, "-o", p / "out"), _json),
        "compress": Verb(lambda p: words("compress", model, "-o", p / "out", "--dense", dense, *_PLANNING),
                         Bundle.open),
    }
    if key is not None:
        known["sign"] = Verb(lambda p: words("sign", small, "--private-key", key, "-o", p / "out"), _json)
    return known


def _key(base: Path) -> Path | None:
    """A P-256 key, where there is what makes one."""
    try:
        import model_signing  # noqa: F401
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        return None
    data = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (base / "key.pem").write_bytes(data)
    return base / "key.pem"


def _json(path: Path) -> None:
    json.loads(path.read_bytes())


def _packaged(folder: Path) -> None:
    _json(folder / "config.json")
    if not os.path.getsize(folder / "onnx" / "model.onnx"):
        raise every_verb.Broken(f"{folder} is not whole")
