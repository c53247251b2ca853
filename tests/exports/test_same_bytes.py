"""The same recipe gives the same bytes wherever it runs, and no file tells where that was."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from nightly import NIGHTLY

PROGRAM = """
import sys
from pathlib import Path
import foldrank
from foldrank.verbs.apply import apply
from foldrank.verbs.plan import plan

exporters, methods = sys.argv[1].split(","), sys.argv[2:]
made = plan("tiny", methods=methods, calibration_tokens=512)
Path("plan").mkdir()
made.write(Path("plan"))
for name in exporters:
    graph = Path("tiny-optimum") if name == "optimum" else None
    dense = foldrank.export("tiny", Path("out") / name, exporter=name, graph=graph)
    small = apply(dense, made, Path("out") / f"{name}-small")
    foldrank.package(small, Path("out") / f"{name}-js", format="transformers.js")
"""
METHODS = ["slm:keep=0.84,windows=2,tokens=128", "dipsvd:keep=0.7,align=1,ratios=uniform"]
NAMED = "ziggurat"
"""The user's name, as the environment gives it: found nowhere by chance."""
PLACE = re.compile(rb"/(?:home|root|tmp|usr|var|work|opt|Users|mnt)/[\w.-]+")


def made_in(folder: Path, seed: int, tiny_models: Path, exporters: list[str]) -> subprocess.Popen[bytes]:
    """Start the recipe in a folder, with a home, a temporary folder and hash seed of its own."""
    source = tiny_models / "llama"
    for name in ("home", "temporary"):
        (folder / name).mkdir(parents=True)
    shutil.copytree(source / "checkpoint", folder / "tiny")
    shutil.copytree(source / "optimum", folder / "tiny-optimum")
    (folder / "tiny" / "LICENSE").write_text("MIT")
    environment = {**os.environ, "HOME": str(folder / "home"), "TMPDIR": str(folder / "temporary"), "USER": NAMED,
                   "LOGNAME": NAMED, "XDG_CACHE_HOME": str(folder / "home" / "cache"), "PYTHONHASHSEED": str(seed),
                   "SOURCE_DATE_EPOCH": "1700000000", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, ",".join(exporters), *METHODS], cwd=folder,
                            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for top in ("out", "plan")
            for p in sorted((folder / top).rglob("*")) if p.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("exporters", [
    ["genai", "optimum"], pytest.param(["transformers"], marks=NIGHTLY),
], ids=",".join)
def test_two_places_make_the_same_files_and_none_tells_of_its_place(
    exporters: list[str], tiny_models: Path, tmp_path: Path
) -> None:
    if "genai" in exporters:
        pytest.importorskip("onnxruntime_genai")
    places = [tmp_path / "one", tmp_path / "two" / "deeper" / "down"]
    running = [made_in(place, seed, tiny_models, exporters) for seed, place in enumerate(places)]
    for process in running:
        assert process.communicate()[1].decode()[-2000:] * bool(process.returncode) == ""
    first, second = map(contents, places)
    assert first.keys() == second.keys()
    assert len(first) > 20 * len(exporters)
    assert [name for name in first if first[name] != second[name]] == []
    assert {name: found[0] for name, data in first.items() if (found := told(data, places[0]))} == {}


def told(data: bytes, place: Path) -> list[bytes]:
    """What in a file tells of the machine: a place, the user, the host."""
    host = socket.gethostname().encode()
    known = [os.fsencode(place), NAMED.encode(), *([host] if len(host) > 4 else [])]
    return [word for word in known if word in data] + PLACE.findall(data)


def test_the_scan_sees_a_place_a_user_and_a_host(tmp_path: Path) -> None:
    assert told(b"x /root/.cache/a y", tmp_path) == [b"/root/.cache"]
    assert told(f"at {tmp_path}/b".encode(), tmp_path)[0] == os.fsencode(tmp_path)
    assert told(b"by ziggurat", tmp_path) == [NAMED.encode()]
    assert told(b'{"name": "model/layers.0/attn", "url": "https://example.org/x"}', tmp_path) == []
