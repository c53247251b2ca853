"""Which exporter fills the folder: the one named, or what `auto` takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foldrank.bundle.bundle import FileEntry
from foldrank.errors import ExportError, NotWritable
from foldrank.export import exporters
from foldrank.export.exporters import run_exporter

ENTRY = {"model.onnx.data": FileEntry("0" * 64, 7)}
UNKNOWN = NotWritable("Strange", "is not known to the builder", "take another")


class Checkpoint:
    """All that the choice may read."""

    def __init__(self, architecture: str = "GPT2LMHeadModel") -> None:
        self.architecture = architecture


def exporter(error: Exception | None = None, left: str = "model.onnx") -> Callable[..., Any]:
    """One that leaves a file, and fails then where an error is given."""
    def run(_checkpoint: Any, folder: Path, **options: Any) -> dict[str, FileEntry]:
        assert not any(folder.iterdir()), "an exporter is given an empty folder"
        assert options == {"dtype": "fp32"}
        (folder / left).write_text("graph")
        (folder / ".builder").mkdir()
        (folder / ".builder" / "log").write_text("said")
        if error is not None:
            raise error
        return ENTRY
    return run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`run_exporter` with stand-ins for the exporters named; no other is touched."""
    def made(name: str, checkpoint: Checkpoint, **stand_ins: Callable[..., Any]) -> Any:
        monkeypatch.setattr(exporters, "_named", stand_ins.__getitem__)
        return run_exporter(name, checkpoint, tmp_path, dtype="fp32")  # type: ignore[arg-type]
    return made


def test_every_name_is_a_function() -> None:
    assert len({exporters._named(name) for name in exporters.EXPORTERS}) == 3


@pytest.mark.parametrize("name", ["genai", "transformers", "optimum"])
def test_the_one_named_runs_and_its_error_is_the_answer(name: str, run: Callable[..., Any], tmp_path: Path) -> None:
    made = run(name, Checkpoint(), **{name: exporter()})
    assert (made.exporter, made.files, made.reason) == (name, ENTRY, None)
    for path in (tmp_path / "model.onnx", tmp_path / ".builder" / "log"):
        path.unlink()
    (tmp_path / ".builder").rmdir()
    with pytest.raises(NotWritable, match="not known to the builder"):
        run(name, Checkpoint(), **{name: exporter(UNKNOWN)})


def test_auto_is_genai_where_that_writes_the_model(run: Callable[..., Any]) -> None:
    made = run("auto", Checkpoint("LlamaForCausalLM"), genai=exporter())
    assert (made.exporter, made.reason) == ("genai", None)


def test_auto_is_transformers_where_genai_does_not_and_says_why(run: Callable[..., Any], tmp_path: Path) -> None:
    made = run("auto", Checkpoint(), genai=exporter(UNKNOWN, left="half.onnx"), transformers=exporter())
    assert (made.exporter, made.files, made.reason) == ("transformers", ENTRY, "is not known to the builder")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".builder", "model.onnx"]


def test_auto_does_not_hide_what_another_exporter_cannot_mend(run: Callable[..., Any]) -> None:
    missing = ExportError("exporter genai", "is not installed", "install it")
    with pytest.raises(ExportError, match="is not installed"):
        run("auto", Checkpoint(), genai=exporter(missing))


def test_auto_leaves_models_that_transformers_does_not_have(run: Callable[..., Any]) -> None:
    with pytest.raises(NotWritable, match="not known to the builder"):
        run("auto", Checkpoint("NobodyForCausalLM"), genai=exporter(UNKNOWN))


def test_where_both_fail_both_reasons_are_told(run: Callable[..., Any]) -> None:
    second = ExportError("there", "traces to nothing", "ask for help")
    with pytest.raises(ExportError, match=r"traces to nothing.*genai.*not known to the builder; ask for help"):
        run("auto", Checkpoint(), genai=exporter(UNKNOWN), transformers=exporter(second))


def test_a_name_nobody_has_is_wrong_use(run: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="no exporter 'magic'; one of auto, genai, transformers, optimum"):
        run("magic", Checkpoint())
