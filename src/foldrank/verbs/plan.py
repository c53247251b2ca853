"""`foldrank plan`: from a checkpoint and methods to a plan folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from foldrank.progress import SILENT, Progress

if TYPE_CHECKING:
    from foldrank.planfile import Plan


def plan(
    model: str | Path, output: str | Path | None = None, *, methods: Sequence[str],
    calibration: str | Path | None = None, calibration_tokens: int | None = None, seed: int = 0, device: str = "cpu",
    force: bool = False, offline: bool = False, trust_remote_code: bool = False, progress: Progress = SILENT,
) -> Plan:
    """Compute a compression plan and, where `output` is given, write it there as a folder.

    `methods` as on the command line (`"slm:keep=0.75"`), applied in order. Raises ValueError on wrong settings,
    SourceError on a checkpoint, text or output that cannot serve.
    """
    from foldrank.checkpoint import Checkpoint, check_dense, check_finite
    from foldrank.plans.compose import make_plan, parse_all
    from foldrank.staging import check_output, staged_folder

    parse_all(methods)
    if output is not None:
        check_output(output, force=force)
    checkpoint = Checkpoint.open(model, offline=offline, trust_remote_code=trust_remote_code)
    check_dense(checkpoint)
    check_finite(checkpoint, progress)
    made = make_plan(
        checkpoint, methods, calibration=None if calibration is None else Path(calibration),
        calibration_tokens=calibration_tokens, seed=seed, device=device, progress=progress,
    )
    if output is not None:
        with staged_folder(output, force=force) as folder:
            made.write(folder)
    return made
