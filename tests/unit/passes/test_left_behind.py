"""What a plan that broke, did not fit a bundle or could not be written leaves: a reproducer, or nothing."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest
from refusing import DECODER, graph_of, made
from synthetic import PlanMaker, write_bundle

from foldrank.bundle.bundle import Bundle
from foldrank.errors import InvariantBroken, PlanMismatch, SourceError
from foldrank.graph.invariants import check_graph
from foldrank.graph.view.decoder import View
from foldrank.passes.drop_blocks import DropBlocks
from foldrank.passes.pipeline import run
from foldrank.sites import Site
from foldrank.verbs.apply import apply


def test_broken_invariant_names_a_reproducer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Breaks(DropBlocks):
        def edit(self, model: ir.Model, view: View | None = None):  # type: ignore[no-untyped-def]
            receipt = super().edit(model, view)
            model.graph.initializers.pop("model.layers.2.mlp.down_proj.MatMul.weight")
            return receipt

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(InvariantBroken, match="foldrank-reproducer-") as caught:
        run(graph_of(DECODER, tmp_path), [Breaks((1,))], made().plan())
    assert caught.value.exit_code == 70
    (folder,) = tmp_path.glob("foldrank-reproducer-*")
    assert {p.name for p in folder.iterdir()} == {"graph.onnx", "plan.json"}
    assert (folder / "graph.onnx").stat().st_size < 100_000


def test_invariants_find_dangling_initializers_and_gaps(tmp_path: Path) -> None:
    model = graph_of(DECODER, tmp_path)
    DropBlocks((1,)).edit(model)
    check_graph(model, "dropped")
    with pytest.raises(InvariantBroken, match="nothing reads the initializer"):
        check_graph(model, "dropped", finished=True)


def test_bundles_that_do_not_fit(tmp_path: Path) -> None:
    dense = write_bundle(DECODER, tmp_path / "dense")
    maker = PlanMaker(DECODER, dense.manifest.source["config_sha256"]).low_rank("block.00.o", 5)
    small = apply(dense, maker.plan(), tmp_path / "small")
    with pytest.raises(PlanMismatch, match="compressed already"):
        apply(small, maker.plan(), tmp_path / "smaller")
    with pytest.raises(PlanMismatch, match=r"config\.json"):
        apply(dense, made().plan(), tmp_path / "other")
    with pytest.raises(SourceError, match="exists"):
        apply(dense, maker.plan(), tmp_path / "small")
    assert Bundle.open(tmp_path / "small") == small
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dense", "small"]


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = write_bundle(DECODER, tmp_path / "dense")
    maker = PlanMaker(DECODER, dense.manifest.source["config_sha256"]).low_rank("block.00.o", 5)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("foldrank.passes.hashed_file.HashedFile.write", full)
    with pytest.raises(SourceError, match="No space left"):
        apply(dense, maker.plan(), tmp_path / "small")
    assert [p.name for p in tmp_path.iterdir()] == ["dense"]


def test_site_of_a_pair_is_told_when_reading_the_result(tmp_path: Path) -> None:
    from foldrank.verbs.inspect import inspect

    dense = write_bundle(DECODER, tmp_path / "dense")
    maker = PlanMaker(DECODER, dense.manifest.source["config_sha256"])
    maker.fold((1, 2), {1: 0.0, 2: 1.0}, 2).low_rank("block.02.gate_up", 7).low_rank("block.03.k", 3)
    apply(dense, maker.plan(), tmp_path / "small")
    found = inspect(tmp_path / "small")
    ranks = {row["site"]: (row["shape"], row["rank"]) for row in found["sites"]}
    assert ranks["block.02.gate_up"] == ([48, 160], 7)
    assert ranks["block.03.k"] == ([48, 32], 3)
    assert ranks["block.03.v"] == ([48, 32], None)
    assert (found["blocks"], found["block_numbers"]) == (3, [0, 2, 3])
    assert Site.parse("block.02.down") in map(Site.parse, ranks)
