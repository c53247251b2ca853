"""A basis that several blocks share, from plan to graph: one initializer, logits of the PyTorch model with the plan."""

from __future__ import annotations

from pathlib import Path

from proved import Planned, prove

import foldrank
from foldrank.edits.low_rank import LowRank
from foldrank.graph.safe.load import load_model
from foldrank.planfile.plan import Plan


def test_neighbours_read_one_initializer_and_compute_what_the_plan_says(tiny_models: Path, tmp_path: Path) -> None:
    folder = tiny_models / "llama"
    (tmp_path / "plan").mkdir()
    foldrank.plan(
        folder / "checkpoint", methods=["basis_sharing:keep=0.5,align=1"], calibration_tokens=512
    ).write(tmp_path / "plan")
    plan = Plan.read(tmp_path / "plan")
    model = Planned(folder / "checkpoint", plan)
    graph = prove(folder / "optimum" / "model.onnx", model, tmp_path / "small")
    bases = [edit.factors[0] for edit in plan.of(LowRank)]
    held = [name for name in load_model(graph).graph.initializers if str(name).endswith(".A")]
    assert len(held) == len(set(bases)) < len(bases)
    assert sum(array.size for array in plan.arrays.values()) < sum(e.rank * sum(e.shape) for e in plan.of(LowRank))
