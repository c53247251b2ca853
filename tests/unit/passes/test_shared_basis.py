"""A basis that several blocks share, from plan to graph: one initializer, logits of the PyTorch model with the plan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch_model import prove

import foldrank
from foldrank.checkpoint import Checkpoint
from foldrank.graph.load import load_model
from foldrank.planfile import Plan
from foldrank.plans.models.reference import reference_model


class Planned:
    """What `prove` asks of a model: a plan, and the logits that a graph must give after it."""

    def __init__(self, checkpoint: Path, plan: Plan) -> None:
        self.model = reference_model(Checkpoint.open(checkpoint), plan, dtype=torch.float64)
        self.made = plan

    def plan(self) -> Plan:
        return self.made

    def logits(self, ids: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self.model(torch.from_numpy(ids)[None], use_cache=False).logits[0].numpy()


def test_neighbours_read_one_initializer_and_compute_what_the_plan_says(shared: Path, tmp_path: Path) -> None:
    folder = shared / "fixtures" / "tiny" / "llama"
    (tmp_path / "plan").mkdir()
    foldrank.plan(
        folder / "checkpoint", methods=["basis_sharing:keep=0.5,align=1"], calibration_tokens=512
    ).write(tmp_path / "plan")
    plan = Plan.read(tmp_path / "plan")
    model = Planned(folder / "checkpoint", plan)
    graph = prove(folder / "optimum" / "model.onnx", model, tmp_path / "small")  # type: ignore[arg-type]
    bases = [edit.factors[0] for edit in plan.pairs]
    held = [name for name in load_model(graph).graph.initializers if str(name).endswith(".A")]
    assert len(held) == len(set(bases)) < len(bases)
    assert sum(array.size for array in plan.arrays.values()) < sum(e.rank * sum(e.shape) for e in plan.pairs)
