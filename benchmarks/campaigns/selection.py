"""Which windows recovery trains on, measured: random against rs2 and paser, by plan and seed.

    python benchmarks/campaigns/selection.py MODEL --json benchmarks/results/recover_select.json --steps 60

A plan is made once a seed and trained three times on the same text, whose windows are drawn in another order. Figures
are of held-out text of other documents, as `quality.py` takes them. Rows that the file holds are not made again; each
is written as it comes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, cast

import torch

from foldrank.benchmarks.environment import environment
from foldrank.benchmarks.quality_judge import Judge, judge
from foldrank.model.checkpoint import Checkpoint
from foldrank.planfile.plan import Plan
from foldrank.plans.calibration import calibration_windows, usable
from foldrank.plans.compose import parse_all, plan_of, run_all
from foldrank.plans.simulate import apply_edits
from foldrank.plans.training.adapters import Kind
from foldrank.plans.training.recovering import Recovery, recovery_windows
from foldrank.plans.training.recovery import Training, recover
from foldrank.plans.training.sampling import SELECTS
from foldrank.plans.training.teacher import Teacher

CASES = ("quantize:bits=4 + scales", "dipsvd:keep=0.8 + factors", "width:keep=0.85 + sliced")
TOKENS = 131_072


def planned(checkpoint: Checkpoint, known: Judge, method: str, seed: int) -> Plan:
    """Of one method, on the calibration text."""
    windows = usable(known.decoder, calibration_windows(checkpoint, None, None, seed))
    runs = run_all(known.decoder, parse_all([method]), windows.ids, seed, opening=windows.opening)
    return plan_of(checkpoint, known.decoder, windows, runs)


def row(known: Judge, plan: Plan, teacher: Teacher, ids: Any, training: Training, seed: int) -> dict[str, Any]:
    """What is left of the loss."""
    found = recover(known.decoder, plan, ids, training, seed=seed, teacher=teacher)
    figures = known.figures(apply_edits(found.plan.edits, known.decoder, found.plan.arrays))
    return {**figures, "held_out_kl": min(loss for _, loss in found.curve), "steps": found.curve[-1][0]}


def main() -> None:
    """Every case, seed and selection."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--cases", nargs="*", default=CASES, help="a method, +, the kind of recovery behind it")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    asked = parser.parse_args()
    checkpoint = Checkpoint.open(asked.model)
    known = judge(checkpoint, None)
    rows: list[dict[str, Any]] = json.loads(asked.json.read_text())["rows"] if asked.json.is_file() else []
    done = {(one["model"], one["case"], one["steps_asked"], one["seed"], one["select"]) for one in rows}
    for seed in range(asked.seeds):
        drawn = recovery_windows(checkpoint, Recovery("factors", None, TOKENS), seed)
        ids, teacher = usable(known.decoder, drawn).ids, Teacher(known.decoder)
        for case in asked.cases:
            method, kind = case.split(" + ")
            left = [name for name in SELECTS if (checkpoint.name, case, asked.steps, seed, name) not in done]
            plan = planned(checkpoint, known, method, seed) if left else None
            for select in left if plan is not None else ():
                key = {"model": checkpoint.name, "case": case, "steps_asked": asked.steps, "seed": seed,
                       "select": select}
                training = Training(cast(Kind, kind), steps=asked.steps, measured=6, select=select)
                rows.append({**key, "tokens": int(ids.size), **row(known, plan, teacher, ids, training, seed)})
                print(rows[-1], flush=True)
                text = {"environment": environment(torch.get_num_threads()), "rows": rows}
                asked.json.write_text(json.dumps(text, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
