"""Methods on a real pretrained model: bytes stored, and perplexity over dense on held-out text, by setting.

    python examples/smollm2.py smollm2
    python benchmarks/campaigns/smollm2.py smollm2 --json benchmarks/results/width_smollm2.json
    python benchmarks/campaigns/smollm2.py smollm2 --json benchmarks/results/front_smollm2.json \
        --calibration-tokens 24576 --methods auto:keep=0.9 quantize:bits=4 "auto:keep=0.8 + recover 15 sliced"

Methods that follow each other make one row, `rotate + quantize:bits=4`. With `+ recover MINUTES KIND` behind it is the
plan trained by distillation for so long, on this machine; with `--plans DIR` that which an earlier call left.
Calibration is drawn from foldrank's calibration text, perplexity is taken on its validation text, of other documents.
Rows that the JSON file holds for the same text and versions are not made again; each is written as it comes.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from foldrank.benchmarks.environment import environment
from foldrank.benchmarks.front_picture import AND, RECOVER
from foldrank.edits.base import EMBEDDING, HEAD, Part
from foldrank.edits.storage import FewBits, StorageEdit
from foldrank.model.checkpoint import Checkpoint
from foldrank.planfile.plan import Plan
from foldrank.plans.calibration import calibration_windows
from foldrank.plans.compose import Run, parse_all, plan_of, run_all
from foldrank.plans.depth.branches import places
from foldrank.plans.method import Result
from foldrank.plans.models.decoder import Decoder, load_decoder
from foldrank.plans.simulate import apply_edits
from foldrank.plans.solver.costs import stored_bytes
from foldrank.plans.texts import Windows
from foldrank.plans.training.recovering import Recovery, recovery_windows
from foldrank.plans.training.recovery import recover
from foldrank.sites import Site

METHODS = (
    "width:keep=0.85", "width:keep=0.85,toward=1", "width:keep=0.85,inputs=original",
    "width:keep=0.85,inputs=original,refit=false", "width:keep=0.85,allocate=uniform", "width:keep=0.925",
    "width:keep=0.85,bias=true", "flap:keep=0.85", "cfsp:keep=0.85",
    *(f"{method}:branches={left},which=attention" for left in (28, 26) for method in ("llm_drop", "finercut")),
    "llm_drop:keep=0.95", "finercut:keep=0.95",
)

SMOLLM2 = "SmolLM2-135M-Instruct, made by examples/smollm2.py: its weights come from a 4-bit file"


@dataclass(frozen=True)
class Campaign:
    """One checkpoint, its texts and its dense perplexity."""

    checkpoint: Checkpoint
    windows: Windows
    decoder: Decoder
    seed: int
    held_out: np.ndarray
    dense: float
    plans: Path | None = None
    last: dict[str, tuple[Run, ...]] = field(default_factory=dict)
    """What the methods of the last row gave: the next may be their recovery."""

    @classmethod
    def of(
        cls, folder: Path, calibration: int, held_out: int, seed: int = 0, plans: Path | None = None
    ) -> Campaign:
        """So many tokens of each text; `seed` draws those of calibration. `plans`: where plans are kept."""
        checkpoint = Checkpoint.open(folder)
        validation = Path(__file__).parents[2] / "examples" / "text" / "validation.jsonl"
        windows = calibration_windows(checkpoint, None, calibration, seed)
        other = calibration_windows(checkpoint, validation, held_out, 0)
        decoder = load_decoder(checkpoint)
        return cls(checkpoint, windows, decoder, seed, other.ids, perplexity(decoder, other.ids), plans)

    def row(self, method: str) -> dict[str, Any]:
        """What a method makes of the model."""
        if RECOVER in method:
            return self._recovered(method)
        wall, cpu = time.perf_counter(), time.process_time()
        runs = self._runs(method)
        spent = {"planning_s": time.perf_counter() - wall, "planning_cpu_s": time.process_time() - cpu}
        self.last.clear()
        self.last[method], result = runs, together(runs)
        if self.plans is not None:
            self._place(method).mkdir(parents=True, exist_ok=True)
            plan_of(self.checkpoint, self.decoder, self.windows, runs).write(self._place(method))
        return {"method": method, "keep": round(result.kept, 4),
                "perplexity_over_dense": self._over_dense(result.decoder),
                "bytes": stored(result, self.decoder), "peak_rss_bytes": peak_rss(),
                "predicted": {name: value for name, value in result.predicted.items() if name.endswith("nats")},
                **{name: round(seconds) for name, seconds in spent.items()}, **_left(result.decoder, self.decoder)}

    def _runs(self, method: str) -> tuple[Run, ...]:
        """Of each method on what the one before left, on shelves of their own: methods name what they find alike, and
        find other things."""
        return run_all(self.decoder, parse_all(method.split(AND)), self.windows.ids, self.seed,
                       opening=self.windows.opening)

    def _plan(self, method: str) -> Plan:
        """The one that is kept, or of the last row's runs, or made now."""
        if self.plans is not None and (self._place(method) / "plan.json").exists():
            return Plan.read(self._place(method))
        return plan_of(self.checkpoint, self.decoder, self.windows, self.last.get(method) or self._runs(method))

    def _place(self, method: str) -> Path:
        assert self.plans is not None
        return self.plans / re.sub(r"[^\w.=-]+", "_", f"{method} seed={self.seed}")

    def _over_dense(self, decoder: Decoder) -> float:
        return round(perplexity(decoder, self.held_out) / self.dense, 4)

    def _recovered(self, row: str) -> dict[str, Any]:
        """The plan of a method trained for so many minutes."""
        method, told = row.split(RECOVER)
        minutes, kind = told.split()
        source, plan = self.decoder, self._plan(method)
        kept = float(np.prod([step.keep.reached for step in plan.document.steps]))
        result = Result(apply_edits(plan.edits, source, plan.arrays), plan.edits, kept)
        asked = Recovery(kind, minutes=float(minutes))  # type: ignore[arg-type]
        ids, wall, cpu = recovery_windows(self.checkpoint, asked, 0).ids, time.perf_counter(), time.process_time()
        training = asked.training(plan, source.family.roles)
        done = recover(source, plan, ids, training)
        spent = {"recovery_s": time.perf_counter() - wall, "recovery_cpu_s": time.process_time() - cpu}
        trained = apply_edits(done.plan.edits, source, done.plan.arrays)
        steps = done.curve[-1][0]
        return {"method": row, "keep": round(result.kept, 4), "perplexity_over_dense": self._over_dense(trained),
                "bytes": stored(result, source), "peak_rss_bytes": peak_rss(), "recovery_steps": steps,
                "recovery_tokens": steps * training.batch * ids.shape[1], "recovery_curve": done.curve,
                **{name: round(seconds) for name, seconds in spent.items()}}


def together(runs: Sequence[Run]) -> Result:
    """What several methods come to."""
    results = [run.result for run in runs]
    return replace(results[-1], edits=tuple(edit for result in results for edit in result.edits),
                   kept=float(np.prod([result.kept for result in results])))


def stored(result: Result, dense: Decoder) -> int:
    """Bytes of all weights, floats in fp32; a basis or a weight that blocks share counts once."""
    few: dict[Part, FewBits] = {part: edit.storage for edit in result.edits if isinstance(edit, StorageEdit)
                                for part in edit.touch.writes}
    whole, floats, bases = 0, result.decoder.other_parameters, set[Any]()

    def of(shape: tuple[int, ...], part: Part) -> int:
        size = (shape[0], shape[1])
        return stored_bytes(few[part], size, 4) if part in few else 4 * shape[0] * shape[1]

    for block in result.decoder.blocks:
        floats += block.parameters - block.site_parameters
        floats += sum(pair.a.numel() + pair.b.numel() for pair in block.beside.values())
        paired = {role: roles for roles in block.pairs for role in roles}
        for role in block.roles:
            part, roles = Site(block.number, (role,)), paired.get(role)
            if roles is None:
                name = role, block.shared.get(role)
                if name[1] is None or name not in bases:
                    whole += of(tuple(block.weight(role).shape), part)
                bases.add(name)
            elif role == roles[0]:
                pair = block.pairs[roles]
                whole += of(tuple(pair.b.shape), part)
                if not pair.shared or pair.shared not in bases:
                    whole += of(tuple(pair.a.shape), part)
                bases.add(pair.shared)
    for part, table in ((EMBEDDING, dense.table), (HEAD, dense.head)):
        if part in few and not (part == HEAD and dense.tied and few.get(EMBEDDING) == few[part]):
            whole += of(tuple(table.shape), part)
            floats -= 0 if part == HEAD and dense.tied else table.numel()
    return whole + 4 * floats


def peak_rss() -> int:
    """Of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _left(decoder: Decoder, dense: Decoder) -> dict[str, Any]:
    """The branches that are gone; where none is, widths of MLPs by block."""
    left = set(places(decoder, "both"))
    dropped = [str(place) for place in places(dense, "both") if place not in left]
    return {"dropped": dropped} if dropped else {"widths": {b.number: len(b.weight("down")) for b in decoder.blocks}}


def perplexity(decoder: Decoder, ids_NT: np.ndarray) -> float:
    """Of the next token, over windows; logits of one window at a time."""
    total = 0.0
    with torch.no_grad():
        for hidden, ids in zip(decoder.forward(ids_NT).split(1), torch.from_numpy(ids_NT), strict=True):
            total += float(functional.cross_entropy(decoder.logits(hidden)[0, :-1].float(), ids[1:], reduction="sum"))
    return float(np.exp(total / (ids_NT.shape[0] * (ids_NT.shape[1] - 1))))


def main() -> None:
    """Make the rows that the file lacks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--calibration-tokens", type=int, default=12_288)
    parser.add_argument("--held-out-tokens", type=int, default=6_144)
    parser.add_argument("--seed", type=int, default=0, help="of the calibration text that is drawn, and of methods")
    parser.add_argument("--plans", type=Path, help="keep plans there")
    parser.add_argument("--json", type=Path, required=True)
    asked = parser.parse_args()
    campaign = Campaign.of(asked.checkpoint, asked.calibration_tokens, asked.held_out_tokens, asked.seed, asked.plans)
    body: dict[str, Any] = {
        "model": SMOLLM2 if campaign.checkpoint.name == "smollm2" else campaign.checkpoint.name,
        "calibration_tokens": asked.calibration_tokens, "held_out_tokens": asked.held_out_tokens,
        "dense_perplexity": round(campaign.dense, 3), "seed": asked.seed,
        "environment": environment(torch.get_num_threads()),
    }
    old = json.loads(asked.json.read_text(encoding="utf-8")) if asked.json.is_file() else {}
    same = all(old.get(key, 0) == body[key] for key in body if key != "environment")
    rows = {row["method"]: row for row in old.get("rows", [])} if same else {}
    for method in asked.methods:
        if method not in rows:
            rows[method] = campaign.row(method)
            print(json.dumps(rows[method]), flush=True)
            body["rows"] = list(rows.values())
            asked.json.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
