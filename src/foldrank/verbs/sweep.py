"""sweep: every candidate of a grid over a recipe, planned, applied and judged; what is finished is never done again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from foldrank import strictjson
from foldrank.bundle.bundle import Bundle
from foldrank.disk.staging import write_atomically
from foldrank.errors import SourceError
from foldrank.installed import missing, require
from foldrank.progress import SILENT, Progress
from foldrank.recipe import Recipe, read_recipe
from foldrank.verbs.sweeping import cluster, front, local, tracking
from foldrank.verbs.sweeping.candidate import FAILED, RESULT, Task
from foldrank.verbs.sweeping.grid import Candidate, candidates
from foldrank.versions import versions

_STAGE = "candidates"


def sweep(
    recipe: Recipe | str | Path, model: str | Path | None, output: str | Path, *, grid: Sequence[str], jobs: int = 1,
    dense: str | Path | None = None, proof: bool = True, tokens: int = 20_480, device: str = "cpu",
    tracking_uri: str | None = None, experiment: str = "foldrank", ray: str | None = None, offline: bool = False,
    trust_remote_code: bool = False, progress: Progress = SILENT,
) -> dict[str, Any]:
    """Try every combination of `grid` (`verbs/sweeping/grid.py` says what an axis is), `jobs` at once in processes of
    their own, and write into the folder `output`: `candidates/NAME/` with plan, bundle, result and log of each,
    `results.json`, `front.md` and, with matplotlib, `front.svg`.

    The same command goes on where an earlier one ended; a result is kept as long as recipe, model, dense bundle and
    versions are those that it was made with. `model` None: the recipe's. `dense`: the dense bundle, by default exported
    once into `output`.
    `tracking_uri`: an MLflow tracker, one run for each candidate. `ray`: the address of a Ray cluster whose nodes all
    see these files; candidates are its tasks then, as many at once as it has room for, and `jobs` is not looked at.

    Gives `output`, `candidates` (name, changes, bytes, quality, verdict, …), `failed` (errors by name), `front` (names)
    and `done_before`. Raises ValueError (grid), SourceError, BundleError and what `export` raises; a candidate that
    fails does not end the others.
    """
    base = recipe if isinstance(recipe, Recipe) else read_recipe(Path(recipe).expanduser())
    model, tried = model or base.model, candidates(base, grid)
    if model is None:
        raise ValueError("no checkpoint: give --model, or the recipe a key model")
    if jobs < 1 or tokens < 1:
        raise ValueError("jobs and tokens are 1 or more")
    if lacking := {name: name for name, asked in (("mlflow", tracking_uri), ("ray", ray)) if asked is not None}:
        require(lacking)
    folder = Path(output).expanduser().absolute()
    trust: dict[str, Any] = {"offline": offline, "trust_remote_code": trust_remote_code}
    reference = _dense(dense, model, folder, tried[0].recipe, trust, progress)
    tasks = {one.name: _task(one, str(model), reference, proof, tokens, device, trust) for one in tried}
    waiting = [name for name, task in tasks.items() if _finished(folder / "candidates" / name, task.key) is None]
    progress.start(_STAGE, len(tasks), len(tasks) - len(waiting))
    try:
        for name in waiting:
            _prepared(folder / "candidates" / name, tasks[name])
        places = [folder / "candidates" / name for name in waiting]
        for _ in local.run(places, jobs) if ray is None else cluster.run(places, ray):
            progress.advance(_STAGE)
    finally:
        progress.finish(_STAGE)
    return _gathered(folder, tasks, waiting, tracking_uri, experiment)


def _dense(
    given: str | Path | None, model: str | Path, folder: Path, recipe: Recipe, trust: dict[str, Any],
    progress: Progress,
) -> Bundle:
    """The dense bundle: given, left by an earlier run, or exported now."""
    if given is not None:
        return Bundle.open(given)
    place = folder / "dense"
    if place.exists():
        return Bundle.open(place)
    from foldrank.verbs.export import export

    folder.mkdir(parents=True, exist_ok=True)
    return export(model, place, exporter=recipe.exporter or "auto", dtype=recipe.dtype or "fp32",
                  provider=recipe.provider or "cpu", progress=progress, **trust)


def _task(
    one: Candidate, model: str, dense: Bundle, proof: bool, tokens: int, device: str, trust: dict[str, Any]
) -> Task:
    recipe = {f.name: getattr(one.recipe, f.name) for f in fields(one.recipe)}
    recipe["methods"] = list(one.recipe.methods)
    source = {key: value for key, value in dense.manifest.source.items() if key.endswith("sha256")}
    texts = {name: _content(recipe[name]) for name in ("calibration", "calibration_from", "like", "text",
                                                       "recover_text") if recipe[name]}
    weights = {name: entry.sha256 for name, entry in dense.manifest.files.items() if name.startswith("model.onnx")}
    said = strictjson.dumps([{**recipe, **texts, "model": None}, source, weights, versions(), proof, tokens, device])
    return Task(hashlib.sha256(said.encode()).hexdigest(), model, str(dense.path), recipe, one.changes, proof, tokens,
                device, **trust)


def _content(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise SourceError(path, f"cannot be read: {error.strerror}", "name a text that is there") from None


def _finished(folder: Path, key: str) -> dict[str, Any] | None:
    """The result of exactly this task, if it is there."""
    try:
        found = strictjson.read(folder / RESULT)
    except (OSError, strictjson.JsonError):
        return None
    return found if isinstance(found, dict) and found.get("key") == key else None


def _prepared(folder: Path, task: Task) -> None:
    """Leave of an earlier run what belongs to this task."""
    import shutil

    from foldrank.verbs.sweeping.candidate import TASK

    try:
        same = strictjson.read(folder / TASK).get("key") == task.key
    except (OSError, strictjson.JsonError, AttributeError):
        same = False
    if not same:
        shutil.rmtree(folder, ignore_errors=True)
    task.write(folder)


def _gathered(
    folder: Path, tasks: dict[str, Task], waiting: Sequence[str], uri: str | None, experiment: str
) -> dict[str, Any]:
    places = {name: folder / "candidates" / name for name in tasks}
    results = {name: found for name, task in tasks.items() if (found := _finished(places[name], task.key))}
    failed = {name: _why(places[name]) for name in tasks if name not in results}
    best = front.front(results)
    found = {"output": str(folder), "candidates": [{"name": name, **result} for name, result in results.items()],
             "failed": failed, "front": best, "done_before": len(tasks) - len(waiting)}
    told = {key: value for key, value in found.items() if key not in ("output", "done_before")}
    write_atomically(folder / "results.json", strictjson.dumps(told).encode())
    write_atomically(folder / "front.md", front.table(results, best, failed).encode())
    if results and not missing(["matplotlib"]):
        write_atomically(folder / "front.svg", front.drawn(results, best))
    if uri is not None:
        for name, result in results.items():
            tracking.track(uri, experiment, places[name], result)
    return found


def _why(folder: Path) -> str:
    try:
        return str(strictjson.read(folder / FAILED)["error"])
    except (OSError, strictjson.JsonError, KeyError, TypeError):
        return f"its process ended without a word; {folder / local.LOG} has what it wrote"
