"""One candidate: planned, applied and judged in its folder. Run as a program: `python -m … FOLDER`.

What is finished stays: plan and bundle appear whole or not at all, so a run that was killed goes on behind them.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from foldrank import strictjson
from foldrank.disk.staging import write_atomically
from foldrank.errors import FoldrankError
from foldrank.recipe import Recipe
from foldrank.words import one_line

TASK, RESULT, FAILED = "task.json", "result.json", "failed.json"
_PLANNING = ("methods", "calibration", "calibration_tokens", "calibration_from", "like", "recover", "recover_text",
             "recover_tokens", "recover_steps", "recover_minutes", "recover_target", "recover_select", "recover_lisa")


@dataclass(frozen=True)
class Task:
    """What a candidate's process is told; `key`: the digest of all that its result depends on."""

    key: str
    model: str
    dense: str
    recipe: dict[str, Any]
    changes: dict[str, str]
    proof: bool
    tokens: int
    device: str
    offline: bool
    trust_remote_code: bool

    def write(self, folder: Path) -> None:
        """As task.json. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        write_atomically(folder / TASK, strictjson.dumps(data).encode())


def work(folder: Path) -> dict[str, Any]:
    """Do the task of a folder and write its result. Raises what the verbs raise."""
    from foldrank.bundle.bundle import Bundle
    from foldrank.reports.limits import stored_bytes
    from foldrank.verbs.apply import apply
    from foldrank.verbs.plan import plan
    from foldrank.verbs.validate import validate
    from foldrank.verified import sha256_of

    began = time.monotonic()
    task = Task(**strictjson.read(folder / TASK))
    recipe = Recipe(**{**task.recipe, "methods": tuple(task.recipe["methods"])})
    trust: dict[str, Any] = {"offline": task.offline, "trust_remote_code": task.trust_remote_code}
    if not (folder / "plan").exists():
        plan(task.model, folder / "plan", seed=recipe.seed or 0, bos=recipe.bos or "auto", device=task.device, **trust,
             **{name: getattr(recipe, name) for name in _PLANNING})
    if not (folder / "bundle").exists():
        apply(task.dense, folder / "plan", folder / "bundle", seed=recipe.seed or 0)
    found = validate(folder / "bundle", reference=task.dense, model=task.model, text=recipe.text,
                     provider=recipe.provider or "cpu", seed=recipe.seed or 0, bos=recipe.bos or "auto",
                     proof=task.proof, tokens=task.tokens, max_perplexity_increase=recipe.max_perplexity_increase,
                     min_top1_agreement=recipe.min_top1_agreement, **trust)
    result = {
        "key": task.key, "changes": task.changes, "methods": list(recipe.methods),
        "bytes": stored_bytes(Bundle.open(folder / "bundle")), "quality": found["quality"],
        "verdict": found["verdict"], "graph_passed": found["graph"]["passed"],
        "plan_sha256": sha256_of(folder / "plan" / "plan.json"), "seconds": time.monotonic() - began,
    }
    write_atomically(folder / RESULT, strictjson.dumps(result).encode())
    return result


def main(folder: Path) -> int:
    """Run it; an error is left in failed.json and told on standard error."""
    (folder / FAILED).unlink(missing_ok=True)
    try:
        work(folder)
    except (FoldrankError, ValueError) as error:
        said = one_line(str(error))
        write_atomically(folder / FAILED, strictjson.dumps({"error": said}).encode())
        print(f"error: {said}", file=sys.stderr)
        return error.exit_code if isinstance(error, FoldrankError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
