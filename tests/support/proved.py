"""Graphs that foldrank edited, against what PyTorch computes of the same plan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from synthetic import run_onnx, worst
from torch_model import CLOSE, IDS, Model

from foldrank.edits.storage import StorageEdit
from foldrank.graph.invariants import check_file
from foldrank.graph.safe.load import load_model
from foldrank.model.checkpoint import Checkpoint
from foldrank.passes.base import Quantizer
from foldrank.passes.pipeline import transform
from foldrank.passes.write import write_model
from foldrank.planfile.plan import Plan
from foldrank.plans.reference import reference_model


class Planned:
    """A plan that foldrank made: the logits that a graph must give after it are its PyTorch reference's."""

    def __init__(self, checkpoint: Path, plan: Plan) -> None:
        self.model = reference_model(Checkpoint.open(checkpoint), plan, dtype=torch.float64)
        self.made = plan

    def plan(self) -> Plan:
        return self.made

    def logits(self, ids: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self.model(torch.from_numpy(ids)[None], use_cache=False).logits[0].numpy()


def prove(graph: Path, model: Model | Planned, folder: Path, quantizer: Quantizer | None = None) -> Path:
    """The graph, after the model's plan, computes what the model does, prefilled and cached; ONNX's checks pass."""
    changed = edited(graph, model, folder, quantizer)
    expected = model.logits(IDS)
    for steps in (None, (17, 1, 1, 21)):
        found = run_onnx(changed, IDS, steps)
        assert worst(found, expected) < CLOSE
        assert (found.argmax(-1) == expected.argmax(-1)).all()
    return changed


def edited(graph: Path, model: Model | Planned, folder: Path, quantizer: Quantizer | None = None) -> Path:
    """The graph after the model's plan, written and checked as ONNX checks it; opset and IR version are as before, or
    those that few bits need."""
    before = load_model(graph)
    changed, _ = transform(before, model.plan(), quantizer=quantizer)
    forms = {edit.storage.form for edit in model.plan().edits if isinstance(edit, StorageEdit)}
    imports = {**({"com.microsoft": 1} if "nbits" in forms else {}), **before.graph.opset_imports}
    opset, version = (21, 10) if "qdq" in forms else (0, 0)
    assert changed.graph.opset_imports == imports | {"": max(imports[""], opset)}
    assert changed.ir_version == max(before.ir_version or 0, version)
    folder.mkdir(exist_ok=True)
    write_model(changed, folder)
    check_file(folder / "model.onnx", "written")
    return folder / "model.onnx"
