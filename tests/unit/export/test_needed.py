"""Which transformers an exporter needs: said in a line, and the same in setup.cfg, docs and the pinned versions."""

import configparser
import re
from pathlib import Path

import pytest

from foldrank.errors import NotWritable
from foldrank.export import exporters, needed
from foldrank.export.exporters import run_exporter


@pytest.mark.parametrize(("exporter", "old", "first"), [
    ("genai", (4, 57), "5.2"), ("genai", (5, 1), "5.2"), ("transformers", (4, 57), "5.15"),
    ("transformers", (5, 14), "5.15"),
])
def test_an_older_release_is_refused_with_the_one_needed(
    exporter: str, old: tuple[int, int], first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needed, "release", lambda _: old)
    with pytest.raises(NotWritable, match=f"needs transformers {re.escape(first)} or newer") as refused:
        needed.check_transformers(exporter)
    assert f"pip install 'transformers>={first}'" in str(refused.value)


@pytest.mark.parametrize("release", [(5, 15), (5, 24), (6, 0)])
@pytest.mark.parametrize("exporter", list(needed.FIRST))
def test_a_newer_release_is_taken(
    exporter: str, release: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needed, "release", lambda _: release)
    needed.check_transformers(exporter)


def test_auto_says_both_exporters_reasons_on_an_old_release(
    specs_5m: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foldrank.model.checkpoint import Checkpoint

    monkeypatch.setattr(needed, "release", lambda _: (4, 57))
    with pytest.raises(exporters.ExportError, match=r"transformers 5\.15 .*genai exporter before it.* 5\.2 "):
        run_exporter("auto", Checkpoint.open(specs_5m), tmp_path, dtype="fp32", provider="cpu")


def test_the_range_is_the_one_that_setup_cfg_docs_and_the_pins_state(root: Path) -> None:
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(root / "setup.cfg")
    extra = setup["options.extras_require"]["torch"]
    low, high = re.search(r"^transformers>=(\S+),<(\S+)$", extra, re.MULTILINE).groups()  # type: ignore[union-attr]
    pinned = re.search(r"^transformers==(\S+)$", (root / "constraints.txt").read_text(), re.MULTILINE)
    bounds, pin = [tuple(map(int, v.split(".")[:2])) for v in (low, high)], pinned and pinned[1]
    assert bounds[0] <= tuple(map(int, str(pin).split(".")[:2])) < bounds[1]
    assert all(bounds[0] <= first < bounds[1] for first in needed.FIRST.values())
    genai, traced = (".".join(map(str, needed.FIRST[name])) for name in ("genai", "transformers"))
    last = f"{bounds[1][0]}.{bounds[1][1] - 1}"
    said = " ".join((root / "docs" / "compress.md").read_text(encoding="utf-8").split())
    assert f"transformers {low} to {last} (the `genai` exporter from {genai}, `transformers` from {traced})" in said
