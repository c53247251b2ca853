"""The stages of `compress`, each done once: what an earlier run left of the same is taken, the rest is made.

A stage's key holds all that its result follows from: the settings as they are handed to the verb, digests of the
checkpoint and of the texts, our own code, and for what comes later the bundle and plan that it starts from.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from foldrank import strictjson
from foldrank.bundle.bundle import MANIFEST, Bundle
from foldrank.digests import sha256_file
from foldrank.disk.staging import staged_folder, write_atomically
from foldrank.disk.unfinished import Stages
from foldrank.freed import give_back
from foldrank.model.checkpoint import Checkpoint
from foldrank.plans.methods.rotate import turning
from foldrank.plans.models.decoder import load_decoder
from foldrank.plans.pace import seconds_of_a_token
from foldrank.plans.resume import code_version
from foldrank.plans.texts import Windows
from foldrank.progress import Progress
from foldrank.reports.bench import FORM as SPEED
from foldrank.reports.bench import Bench
from foldrank.reports.validate import FORM as QUALITY
from foldrank.reports.validate import Validation
from foldrank.verbs.apply import apply
from foldrank.verbs.bench import bench, cost_table
from foldrank.verbs.export import export
from foldrank.verbs.goal import TABLE, Choice, choice
from foldrank.verbs.plan import plan
from foldrank.verbs.reference import Known, reference_of
from foldrank.verbs.selftest import add_selftest
from foldrank.verbs.validate import validate

_STAGES = ("export", "plan", "apply", "validate", "bench")

_CODE = ("foldrank", "foldrank.graph", "foldrank.export", "foldrank.plans", "foldrank.passes", "foldrank.runtime",
         "foldrank.benchmarks")


@dataclass
class Way:
    """From a checkpoint to a measured bundle. `texts`: digests of the texts given; `trust` and `running`: options that
    several verbs take."""

    stages: Stages
    model: str | Path
    checkpoint: Checkpoint
    texts: Mapping[str, str | None]
    trust: Mapping[str, Any]
    running: Mapping[str, Any]
    progress: Progress
    _known: Known | None = None

    @property
    def small(self) -> Path:
        """Where the compressed bundle is made."""
        return self.stages.folder / "bundle"

    def exported(self, dense: Path | None, **settings: Any) -> Bundle:
        """The dense bundle: in `dense`, for good, where that is given."""
        if dense is not None and dense.exists():
            return Bundle.open(dense)
        place = dense or self.stages.folder / "dense"

        def make() -> Bundle:
            return export(self.model, place, force=dense is None, progress=self.progress, **settings, **self.trust)

        with self._stage("export"):
            return make() if dense is not None else self.stages.once(
                "export", [*self._from, settings], make, lambda: Bundle.open(place))

    def chosen(
        self, goal: str, provider: str, windows: Windows, *, left_s: float | None, of: Sequence[float | None],
        device: str,
    ) -> Choice:
        """What a goal comes to with so many seconds left `of` the minutes asked for; decided once."""
        place = self.stages.folder / "goal.json"

        def make() -> None:
            decoder = load_decoder(self.checkpoint, device=device)
            found = choice(goal, provider, token_s=seconds_of_a_token(decoder, windows.ids),
                           calibration=windows.ids.size, left_s=left_s, turning=turning(decoder))
            write_atomically(place, strictjson.dumps(asdict(found)).encode())

        found = self.stages.once("goal", [*self._from, goal, provider, list(of), dict(self.texts), device], make,
                                 lambda: _choice(place) if place.is_file() else None)
        logging.getLogger("foldrank").warning("%s", found.told)
        return found

    def with_costs(self, baseline: Bundle, method: str) -> str:
        """The method with the cost table of the dense bundle, measured first, where it asks for one."""
        if TABLE not in method:
            return method
        output = self.stages.folder / "costs.json"

        def make() -> None:
            cost_table(baseline, output, progress=self.progress, **self.running)

        digests = [sha256_file(baseline.path / MANIFEST)]
        self.stages.once("costs", [self._code, digests, _plain(self.running)], make,
                         lambda: output if output.is_file() else None)
        return method.replace(TABLE, str(output))

    def planned(self, **settings: Any) -> None:
        """The plan."""
        place = self.stages.folder / "plan"

        def make() -> None:
            made = plan(self.model, None, progress=self.progress, **settings, **self.trust)
            with staged_folder(place, force=True) as folder:
                made.write(folder)

        with self._stage("plan"):
            self.stages.once("plan", [*self._from, _plain(settings), dict(self.texts)], make,
                             lambda: sha256_file(place / "plan.json") if (place / "plan.json").is_file() else None)

    def applied(self, baseline: Bundle, *, seed: int, bos: str) -> Bundle:
        """The compressed bundle with its self-test."""
        chosen = self.stages.folder / "plan"

        def make() -> None:
            made = apply(baseline, chosen, self.small, seed=seed, force=True, progress=self.progress)
            add_selftest(made, self.known(baseline), seed, bos=bos)

        digests = [sha256_file(baseline.path / MANIFEST), sha256_file(chosen / "plan.json")]
        with self._stage("apply"):
            return self.stages.once("apply", [self._code, digests, seed, bos], make, lambda: Bundle.open(self.small))

    def validated(self, baseline: Bundle, **settings: Any) -> Validation:
        """reports/validate.json."""
        def make() -> None:
            validate(self.small, reference=baseline, known=self.known(baseline), progress=self.progress, **settings,
                     **self.trust, **self.running)

        inputs = [_plain(settings), dict(self.texts), _plain(self.running)]
        with self._stage("validate"):
            return self.stages.once("validate", inputs, make, lambda: QUALITY.read(Bundle.open(self.small)),
                                    after=["apply"])

    def benched(self, baseline: Bundle, budget_s: float | None, **settings: Any) -> Bench:
        """reports/bench.json."""
        def make() -> None:
            bench(self.small, baseline=baseline, budget_s=budget_s, progress=self.progress, **settings, **self.running)

        inputs = [_plain(settings), _plain(self.running)]
        with self._stage("bench"):
            return self.stages.once("bench", inputs, make, lambda: SPEED.read(Bundle.open(self.small)),
                                    after=["apply"])

    def known(self, baseline: Bundle) -> Known:
        """What the compressed bundle's graph is judged by, built when it is first asked for."""
        if self._known is None:
            self._known = reference_of(Bundle.open(self.small), self.checkpoint, baseline)
        return self._known

    @contextlib.contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        """Shown as long as it lasts, whatever inside tells of itself."""
        shown = f"{_STAGES.index(name) + 1}/{len(_STAGES)} {name}"
        self.progress.start(shown, None)
        try:
            yield
        finally:
            self.progress.finish(shown)
            give_back()

    @functools.cached_property
    def _code(self) -> str:
        return code_version(*(Path(str(importlib.import_module(name).__file__)).parent for name in _CODE))

    @functools.cached_property
    def _from(self) -> list[Any]:
        return [self._code, self.checkpoint.source(), dict(self.trust)]


def _choice(place: Path) -> Choice:
    """As it was written."""
    held = strictjson.read(place)
    return Choice(**{**held, "methods": tuple(held["methods"])})


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON holds them: paths as text."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
