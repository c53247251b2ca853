"""`foldrank plan`: from a checkpoint and methods to a plan folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from foldrank.progress import SILENT, Progress

if TYPE_CHECKING:
    from foldrank.planfile.plan import Plan
    from foldrank.plans.training.recovering import Recovery


def plan(
    model: str | Path, output: str | Path | None = None, *, methods: Sequence[str],
    calibration: str | Path | None = None, calibration_tokens: int | None = None, seed: int = 0, device: str = "cpu",
    recover: str | None = None, recover_text: str | Path | None = None, recover_tokens: int | None = None,
    recover_steps: int | None = None, bos: str = "auto",
    force: bool = False, offline: bool = False, trust_remote_code: bool = False, progress: Progress = SILENT,
) -> Plan:
    """Compute a compression plan and, where `output` is given, write it there as a folder.

    `methods` as on the command line (`"slm:keep=0.75"`), applied in order. `recover` ("factors", "lora" or "norms")
    trains the plan by distillation on `recover_text` (default: the calibration text). `bos`: whether each window of
    text starts with the beginning-of-text token: "auto" as the tokenizer does, "always", "never". Raises ValueError on
    wrong settings, SourceError on a checkpoint, text or output that cannot serve.
    """
    from foldrank.disk.staging import check_output, staged_folder
    from foldrank.model.checkpoint import Checkpoint, check_finite
    from foldrank.plans.compose import make_plan, parse_all
    from foldrank.plans.models.families import check_family
    from foldrank.plans.models.names import prove_names
    from foldrank.verbs.reading import planning

    parse_all(methods)
    asked = recovery(recover, recover_text or calibration, recover_tokens, recover_steps, bos=bos)
    if output is not None:
        check_output(output, force=force)
    checkpoint = Checkpoint.open(model, offline=offline, trust_remote_code=trust_remote_code, progress=progress)
    check_family(checkpoint)
    windows, drawn = planning(checkpoint, calibration, calibration_tokens, asked, seed=seed, bos=bos)
    for note in prove_names(checkpoint, trust_remote_code=trust_remote_code).notes:
        logging.getLogger("foldrank").warning("%s: %s", checkpoint.name, note)
    check_finite(checkpoint, progress)
    made = make_plan(checkpoint, methods, windows=windows, seed=seed, device=device, progress=progress)
    if asked is not None:
        from foldrank.plans.training.recovering import recovered

        made = recovered(checkpoint, made, asked, windows=drawn, seed=seed, device=device, progress=progress)
    if output is not None:
        with staged_folder(output, force=force) as folder:
            made.write(folder)
    return made


def recovery(
    kind: str | None, text: str | Path | None, tokens: int | None, steps: int | None, *, bos: str = "auto"
) -> Recovery | None:
    """What was asked for. Raises ValueError on a kind there is not, or too little of tokens or steps."""
    from foldrank.plans.training.adapters import RATES
    from foldrank.plans.training.recovering import LEAST_TOKENS, Recovery

    if kind is None:
        return None
    known = {name: name for name in RATES}
    if kind not in known:
        raise ValueError(f"recover {kind!r}: known are {', '.join(known)}")
    if (tokens is not None and tokens < LEAST_TOKENS) or (steps is not None and steps < 1):
        few = f"{tokens} tokens and {steps} steps are too few"
        raise ValueError(f"recover: {few}; give {LEAST_TOKENS} tokens and 1 step or more")
    return Recovery(known[kind], None if text is None else Path(text).expanduser(), tokens, steps, bos)
