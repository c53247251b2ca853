"""A plan that was cut short goes on where it was, and not from findings of other code."""

from __future__ import annotations

import pkgutil
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import foldrank
from foldrank.benchmarks.random_checkpoint import Shape, write_checkpoint
from foldrank.planfile.plan import Plan
from foldrank.plans.compose import parse_all, run_all
from foldrank.plans.low_rank import decomposing
from foldrank.plans.low_rank.decomposing import truncations
from foldrank.plans.models.block import Block
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.resume import FolderShelf, code_version
from foldrank.plans.shelf import Finding, MemoryShelf, Shelf, States, walk
from foldrank.progress import SILENT

pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_a_walk_goes_on_at_the_block_it_was_cut_short_in(
    make_model: Callable[..., Any], ids: np.ndarray, tmp_path: Path, cut: int
) -> None:
    decoder = Decoder.of(make_model(4))

    def walked(shelf: Shelf, fails_at: int | None) -> tuple[list[int], dict[int, Finding]]:
        seen: list[int] = []

        def step(block: Block, states: States) -> tuple[Finding, States]:
            seen.append(block.number)
            if block.number == fails_at:
                raise KeyboardInterrupt
            hidden = decoder.run(block, states["hidden"])
            return Finding({"sum": hidden.sum(dim=(0, 1))}), {"hidden": hidden}

        return seen, walk(decoder.blocks, shelf, lambda: {"hidden": decoder.embed(ids)}, step, stage="walk",
                          device=decoder.device, progress=SILENT)

    shelf = FolderShelf(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        walked(shelf, cut)
    seen, found = walked(shelf, None)
    assert seen == list(range(cut, 4))
    _, whole = walked(MemoryShelf(), None)
    for number in range(4):
        assert torch.equal(found[number].tensors["sum"], whole[number].tensors["sum"])
    assert walked(shelf, None)[0] == []


ASKED: Any = {"methods": ["dipsvd:keep=0.7,packed=joint"], "calibration_tokens": 512}
PROGRAM = f"""
import sys, time
import foldrank
import foldrank.plans.low_rank.decomposing as decomposing
made = decomposing.truncations
def truncations(*arguments):
    print("site", flush=True)
    time.sleep(0.1)
    return made(*arguments)
decomposing.truncations = truncations
foldrank.plan(sys.argv[1], sys.argv[2], **{ASKED})
"""
"""Plans as asked, slowly, with a line for every site that is decomposed."""


@pytest.mark.slow
def test_a_killed_plan_repeats_at_most_one_block_and_ends_the_same(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = Shape(blocks=5, hidden=64, vocabulary=257, tied=True)
    checkpoint, sites = write_checkpoint(shape, tmp_path / "checkpoint"), 5 * 4

    command = [sys.executable, "-c", PROGRAM, str(checkpoint), str(tmp_path / "plan")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        before = 0
        while before < 10 and killed.stdout.readline():
            before += 1
        killed.send_signal(signal.SIGKILL)
        before += len(killed.stdout.readlines())
    assert not (tmp_path / "plan").exists()
    assert len(list(cache.iterdir())) == 1
    done: list[object] = []
    with monkeypatch.context() as patched:
        patched.setattr(decomposing, "truncations", lambda *given: done.append(given) or truncations(*given))
        foldrank.plan(checkpoint, tmp_path / "plan", **ASKED)
    assert before < sites
    assert sites <= before + len(done) <= sites + 4
    assert list(cache.iterdir()) == []
    monkeypatch.setenv("FOLDRANK_NO_CACHE", "1")
    whole, made = foldrank.plan(checkpoint, **ASKED), Plan.read(tmp_path / "plan")
    assert made.edits == whole.edits
    for name, array in whole.arrays.items():
        np.testing.assert_allclose(made.arrays[name], array, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "measured", "most"),
    [("sleb:keep=0.5", "foldrank.plans.criteria.judging.mean_loss", 5), ("shortened:keep=0.5",
      "foldrank.plans.criteria.judging.mean_loss", 3), ("slm:blocks=3", "foldrank.plans.depth.prefix.cosines", None),
     ("finercut:branches=5", "foldrank.plans.methods.finercut.divergence", None),
     ("basis_sharing:keep=0.5", "foldrank.plans.methods.basis_sharing.truncations", None),
     ("welore:keep=0.5", "foldrank.plans.low_rank.decomposing.truncations", None),
     ("fwsvd:keep=0.5", "foldrank.plans.low_rank.gradients._through", None),
     ("dipsvd:keep=0.5", "foldrank.plans.low_rank.gradients._through", None),
     ("auto:keep=0.5,align=4,effort=low", "foldrank.plans.solver.search.Search._step", None),
     ("auto:keep=0.5,align=4,effort=low", "foldrank.plans.solver.staged.Stages._outline", None),
     ("auto:keep=0.5,align=4,effort=normal", "foldrank.plans.solver.staged.Stages._outline", None)],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)
def test_what_a_method_measured_before_it_was_cut_short_is_not_measured_again(
    make_model: Callable[..., Any], ids: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str,
    measured: str, most: int | None,
) -> None:
    decoder = Decoder.of(make_model(4))
    if measured.endswith("._step"):  # the descent, where the program finds no way
        monkeypatch.setattr("foldrank.plans.solver.staged.choose", lambda *_: None)
    plain = pkgutil.resolve_name(measured)
    calls = 0

    def run(shelf: Shelf, fails_at: int | None) -> tuple[int, Any]:
        nonlocal calls
        calls = 0

        def counted(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == fails_at:
                raise KeyboardInterrupt
            return plain(*arguments, **named)

        monkeypatch.setattr(measured, counted)
        try:
            (made,) = run_all(decoder, parse_all([f"{method}"]), ids, 0, shelf=shelf)
        except KeyboardInterrupt:
            return calls, None
        return calls, made.result

    whole, wanted = run(MemoryShelf(), None)
    assert most is None or whole == most
    cut = whole // 2 + 1
    assert run(FolderShelf(tmp_path), cut) == (cut, None)
    again, found = run(FolderShelf(tmp_path), None)
    assert found.edits == wanted.edits
    assert all(np.array_equal(found.arrays[name], array) for name, array in wanted.arrays.items())
    block = {"basis_sharing": 12, "welore": 7, "fwsvd": 6, "dipsvd": 6}.get(method.split(":")[0], 1)
    assert again <= whole - (cut - 1) + block - 1


@pytest.mark.parametrize("folder", [".", "depth", "low_rank", "methods", "models", "solver", "training"])
def test_a_changed_source_in_any_folder_of_the_planner_is_another_version(folder: str, tmp_path: Path) -> None:
    plans = Path(str(foldrank.plans.__file__)).parent
    copy = Path(shutil.copytree(plans, tmp_path / "plans", ignore=shutil.ignore_patterns("__pycache__")))
    before = code_version(copy)
    assert before == code_version(copy)
    changed = next(path for path in sorted((copy / folder).glob("*.py")) if path.stat().st_size)
    changed.write_text(changed.read_text() + "\nMORE = 1\n")
    assert code_version(copy) != before


def test_moved_code_and_the_vocabulary_count_too(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, name in ((one, "a.py"), (other, "b.py")):
        folder.mkdir()
        (folder / name).write_text("X = 1")
    assert code_version(one) != code_version(other)
    assert code_version(one) != code_version(one, other)
    assert code_version() == code_version(Path(str(foldrank.plans.__file__)).parent,
                                          Path(str(foldrank.__file__)).parent)
