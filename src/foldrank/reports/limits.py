"""Limits that a release is held to: size, memory, 95th percentiles of times, KL, tasks, and the release before.

Read off finished reports; nothing is measured here.

A limit that was asked for and cannot be told from the report fails: what was not measured did not pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from foldrank.bundle.bundle import Bundle
from foldrank.errors import BundleError
from foldrank.reports.bench import FORM as BENCH
from foldrank.reports.bench import Bench, Row, headline
from foldrank.reports.form import Gate
from foldrank.reports.validate import FORM as VALIDATE
from foldrank.reports.validate import Validation

SLACK = 0.02
"""How much worse than the release before is no worse, as a share: what machines and roundings differ by."""


@dataclass(frozen=True, kw_only=True)
class QualityLimits:
    """Of `validate`; None: not asked for. Bytes are those of graph and weights; `slack` is for `release`."""

    max_kl: float | None = None
    max_bytes: int | None = None
    max_task_drop: float | None = None
    release: Bundle | None = None
    slack: float = SLACK

    def gates(self, report: Validation, bundle: Bundle) -> list[Gate]:
        """What the report says of each. Raises BundleError: the release has no report, or one of another text."""
        found = []
        if self.max_kl is not None:
            found.append(_most("max_kl", self.max_kl, report.quality.kl_nats, "mean KL from dense, nats a token"))
        if self.max_bytes is not None:
            found.append(_most("max_bytes", self.max_bytes, stored_bytes(bundle), "bytes of graph and weights"))
        if self.max_task_drop is not None:
            drops = [-row.difference for row in report.tasks.rows] if report.tasks else []
            found.append(_most("max_task_drop", self.max_task_drop, max(drops, default=None),
                               "accuracy lost at the task that lost most"))
        if self.release is not None:
            found += self._released(report, bundle, self.release)
        return found

    def _released(self, report: Validation, bundle: Bundle, release: Bundle) -> list[Gate]:
        before = VALIDATE.read(release)
        if before is None:
            raise _unreported(release, "foldrank validate")
        if before.text is None or report.text is None or (
                (before.text.sha256, before.text.bos, before.quality.tokens)
                != (report.text.sha256, report.text.bos, report.quality.tokens)):
            what = "its quality was measured on another text, or on another number of its tokens"
            raise BundleError(release.path, what, "validate it with the text of this run")
        rule = "against the release before"
        return [
            _most("release_perplexity_increase", self.slack, report.quality.perplexity / before.quality.perplexity - 1,
                  rule),
            _most("release_top1_agreement_drop", self.slack,
                  before.quality.top1_agreement - report.quality.top1_agreement, rule),
            _most("release_bytes_increase", self.slack, stored_bytes(bundle) / stored_bytes(release) - 1, rule),
        ]


@dataclass(frozen=True, kw_only=True)
class SpeedLimits:
    """Of `bench`; None: not asked for. Times are the compressed bundle's at batch 1, in the slowest engine and prompt.
    """

    max_memory_bytes: int | None = None
    max_p95_first_ms: float | None = None
    max_p95_token_ms: float | None = None
    release: Bundle | None = None
    slack: float = SLACK

    def gates(self, report: Bench) -> list[Gate]:
        """What the report says of each. Raises BundleError: the release has no report, or one of another machine."""
        ours = [row for row in report.rows if row.bundle == "compressed"]
        lone = [row for row in ours if row.batch == 1]
        found = []
        if self.max_memory_bytes is not None:
            found.append(_most("max_memory", self.max_memory_bytes, _largest(row.peak_rss_bytes for row in ours),
                               "peak resident bytes"))
        if self.max_p95_first_ms is not None:
            found.append(_most("max_p95_ttft_ms", self.max_p95_first_ms, _slowest(lone, "ttft_ms"),
                               "95th percentile of times to the first token, batch 1"))
        if self.max_p95_token_ms is not None:
            found.append(_most("max_p95_tpot_ms", self.max_p95_token_ms, _slowest(lone, "tpot_ms"),
                               "95th percentile of times per token, batch 1"))
        if self.release is not None:
            found += self._released(report, self.release)
        return found

    def _released(self, report: Bench, release: Bundle) -> list[Gate]:
        before = BENCH.read(release)
        if before is None:
            raise _unreported(release, "foldrank bench")
        ours, theirs = ((r.environment.cpu_model, r.environment.threads, r.rows[0].provider) for r in (report, before))
        if ours != theirs:
            what = f"its speed was measured on {theirs[0]}, {theirs[1]} threads, {theirs[2]}, not here"
            raise BundleError(release.path, what, "bench it on this machine")
        now, then = headline(report.speedups), headline(before.speedups)
        same = (now.engine, now.batch, now.prompt_tokens) == (then.engine, then.batch, then.prompt_tokens)
        loss = then.ratio / now.ci95[1] - 1 if same else None
        memory, earlier = (_largest(row.peak_rss_bytes for row in r.rows if row.bundle == "compressed")
                           for r in (report, before))
        return [
            _most("release_slowdown", self.slack, loss,
                  "against the release before: speed over dense, this one's upper end of the 95 % interval"),
            _most("release_memory_increase", self.slack,
                  None if memory is None or not earlier else memory / earlier - 1, "against the release before"),
        ]


def stored_bytes(bundle: Bundle) -> int:
    """Of graph and weights."""
    return sum(entry.bytes for name, entry in bundle.manifest.files.items() if name.startswith("model.onnx"))


def p95(values: Sequence[float]) -> float:
    """The value that 95 of 100 do not exceed, the nearest rank: one that was measured."""
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


def _most(name: str, limit: float, value: float | None, rule: str) -> Gate:
    if value is None:
        return Gate(name=name, limit=limit, value=None, passed=False, rule=f"{rule}; not measured in this run")
    return Gate(name=name, limit=float(limit), value=float(value), passed=bool(value <= limit), rule=rule)


def _largest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _slowest(rows: Sequence[Row], name: str) -> float | None:
    return max((p95(getattr(row.samples, name)) for row in rows if row.samples), default=None)


def _unreported(release: Bundle, command: str) -> BundleError:
    return BundleError(release.path, f"has no report to compare with, since `{command}` was not run on it",
                       f"run `{command}` on the release")
