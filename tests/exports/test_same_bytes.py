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

METHODS = ["slm:keep=0.84,windows=2,tokens=128", "dipsvd:keep=0.7,align=1,ratios=uniform"]
SUPPORT = str(Path(__file__).parents[1] / "support")
NAMED = "ziggurat"
"""The user's name, as the environment gives it: found nowhere by chance."""
PLACE = re.compile(rb"/(?:home|root|tmp|usr|var|work|opt|Users|mnt)/[\w.-]+")


def make(exporters: list[str]) -> None:
    """The recipe, in the current folder."""
    import foldrank
    from foldrank.verbs.apply import apply
    from foldrank.verbs.plan import plan

    made = plan("tiny", methods=METHODS, calibration_tokens=512)
    Path("plan").mkdir()
    made.write(Path("plan"))
    for name in exporters:
        graph = Path("tiny-optimum") if name == "optimum" else None
        dense = foldrank.export("tiny", Path("out") / name, exporter=name, graph=graph)
        small = apply(dense, made, Path("out") / f"{name}-small")
        foldrank.package(small, Path("out") / f"{name}-js", format="transformers.js")


def place(folder: Path, tiny_models: Path) -> dict[str, str]:
    """The recipe's sources in a folder; the environment for it, with a home and a temporary folder of its own."""
    source = tiny_models / "llama"
    for name in ("home", "temporary"):
        (folder / name).mkdir(parents=True)
    shutil.copytree(source / "checkpoint", folder / "tiny")
    shutil.copytree(source / "optimum", folder / "tiny-optimum")
    (folder / "tiny" / "LICENSE").write_text("MIT")
    return {"HOME": str(folder / "home"), "TMPDIR": str(folder / "temporary"), "USER": NAMED, "LOGNAME": NAMED,
            "XDG_CACHE_HOME": str(folder / "home" / "cache"), "SOURCE_DATE_EPOCH": "1700000000",
            "OMP_NUM_THREADS": "1"}


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for top in ("out", "plan")
            for p in sorted((folder / top).rglob("*")) if p.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("exporters", [
    ["genai", "optimum"], pytest.param(["transformers"], marks=NIGHTLY),
], ids=",".join)
def test_two_places_make_the_same_files_and_none_tells_of_its_place(
    exporters: list[str], tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One here, where exporters are warm; the other in a process of its own, with its own order of hashes."""
    if "genai" in exporters:
        pytest.importorskip("onnxruntime_genai")
    places = [tmp_path / "one", tmp_path / "two" / "deeper" / "down"]
    here, there = (place(folder, tiny_models) for folder in places)
    done = subprocess.run([sys.executable, __file__, *exporters], cwd=places[1], capture_output=True, text=True,
                          env={**os.environ, **there, "PYTHONHASHSEED": "1", "PYTHONPATH": SUPPORT})
    assert done.stderr[-2000:] * bool(done.returncode) == ""
    with monkeypatch.context() as patched:
        for name, value in here.items():
            patched.setenv(name, value)
        patched.setattr("tempfile.tempdir", None)
        patched.chdir(places[0])
        make(exporters)
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


if __name__ == "__main__":
    make(sys.argv[1:])
