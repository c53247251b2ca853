"""One input of the fuzzers: the verb on a room with one file changed, and whether it ended as it should."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fuzz_targets import TARGETS, Target, words_of
from mutating import Draw
from spoken import spoken

REFUSED_S, MEMORY = 3.0, 256 << 20
CODES = (0, 1, 2, 3, 4)


def attempt(room: Path, name: str, data: bytes, targets: Mapping[str, Target] = TARGETS) -> dict[str, Any]:
    """One input: what was tried and how it ended; `what` says what is wrong with that, or nothing."""
    target, draw = targets[name], Draw(data)
    verb, fits = draw.of(target.verbs), draw.below(4) > 0
    code, what = tried(room, target.file, lambda held: target.change(held, draw), verb, fits=fits)
    return {"target": name, "data": data.hex(), "verb": verb, "code": code, "what": what}


def tried(
    room: Path, file: str, change: Callable[[bytes], bytes], verb: str, *, fits: bool = True
) -> tuple[int, str]:
    """The verb on a copy of the room with one file changed: its exit code, and what is wrong with that."""
    with tempfile.TemporaryDirectory(prefix="foldrank-fuzz-") as made:
        here = Path(made) / "room"
        shutil.copytree(room, here, ignore=shutil.ignore_patterns("graph"))
        (here / file).write_bytes(change((here / file).read_bytes()))
        if fits:
            make_fit(here, file)
        with contextlib.chdir(here):
            code, what = _judged(verb)
            if verb == "apply" and file.startswith("plan/") and (code, what) == (0, "") and Path("model").exists():
                what = _unproved()
    return code, what


def make_fit(room: Path, changed: str) -> None:
    """Digests as if what was changed had been written so."""
    folder, _, name = changed.partition("/")
    content = (room / changed).read_bytes()
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError, RecursionError, OSError):
        if folder == "dense" and name != "manifest.json":
            manifest = json.loads((room / "dense" / "manifest.json").read_text())
            manifest["files"][name] = entry
            (room / "dense" / "manifest.json").write_text(json.dumps(manifest))
        elif folder == "plan":
            from foldrank.planfile.document import _seal

            plan = json.loads((room / "plan" / "plan.json").read_text())
            if name != "plan.json":
                plan["factors"] = entry
            (room / "plan" / "plan.json").write_text(json.dumps({**plan, "digest": _seal(plan)}))


def _judged(verb: str) -> tuple[int, str]:
    held = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    began = time.process_time()
    _, said, code = spoken(words_of(verb))
    took, grown = time.process_time() - began, _resident("VmHWM") - held
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    if code not in CODES:
        return code, f"exit code {code}: {lines[-1] if lines else said[-300:]}"
    if code and len(lines) != 1:
        return code, f"exit code {code} and {len(lines)} lines: {said[-300:]}"
    if code in (3, 4) and took > REFUSED_S and verb not in ("plan", "validate"):  # those may import torch first
        return code, f"refused after {took:.1f} s: {lines[0]}"
    if code == 4 and grown > MEMORY:
        return code, f"refused with {grown >> 20} MiB: {lines[0]}"
    return code, ""


def _unproved() -> str:
    """What is wrong with what was applied: another plan's graph, which its own proof must still pass."""
    words = ["validate", "out", "--reference", "dense", "--model", "model", "--text", "words.txt", "-q"]
    _, said, code = spoken(words)
    told = json.loads(Path("out/reports/validate.json").read_text())["graph"] if code == 1 else said
    return f"applied, and validate ends with {code}: {str(told)[:300]}" if code else ""


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) << 10


@contextlib.contextmanager
def few_positions() -> Iterator[None]:
    """A proof looks at as many as tell a wrong plan."""
    from foldrank.verbs import proving_windows

    before, proving_windows.MIN_POSITIONS = proving_windows.MIN_POSITIONS, 256
    cached = os.environ.get("FOLDRANK_NO_CACHE")
    os.environ["FOLDRANK_NO_CACHE"] = "1"
    try:
        yield
    finally:
        proving_windows.MIN_POSITIONS = before
        os.environ["FOLDRANK_NO_CACHE"] = cached or ""
