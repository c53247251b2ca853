"""`foldrank plan`: from a checkpoint and methods to a plan folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from foldrank.progress import SILENT, Progress

if TYPE_CHECKING:
    from foldrank.planfile.plan import Plan
    from foldrank.plans.models.decoder import Decoder
    from foldrank.plans.shards import Shards
    from foldrank.plans.shelf import Shelf
    from foldrank.plans.training.recovering import Recovery


N = TypeVar("N", bound=str)


def plan(
    model: str | Path, output: str | Path | None = None, *, methods: Sequence[str],
    calibration: str | Path | None = None, calibration_tokens: int | None = None,
    calibration_from: str | Path | None = None, like: str | Path | None = None, seed: int = 0, device: str = "cpu",
    recover: str | None = None, recover_text: str | Path | None = None, recover_tokens: int | None = None,
    recover_steps: int | None = None, recover_minutes: float | None = None, recover_target: str | None = None,
    recover_select: str | None = None, recover_lisa: int | None = None, bos: str = "auto", force: bool = False,
    offline: bool = False, trust_remote_code: bool = False, shards: int = 1, ray: str | None = None,
    progress: Progress = SILENT,
) -> Plan:
    """Compute a compression plan and, where `output` is given, write it there as a folder.

    `methods` as on the command line (`"slm:keep=0.75"`), applied in order. `calibration_from` and
    `like`: documents of the first that are like the second's, in the place of `calibration`. `recover` ("factors",
    "sliced", "lora", "middle", "diagonal", "scales" or "norms") trains the plan by distillation on `recover_text`
    (default: the calibration text); `recover_minutes` alone does so too, with the kind that suits the plan. `bos`:
    whether each window of text starts with the beginning-of-text token: "auto" as the tokenizer does, "always",
    "never". `shards`: parts of the calibration windows whose Gram matrices are summed; with `ray`, an address, each on
    a worker of that cluster, with the same plan. Raises ValueError on wrong settings, SourceError on a checkpoint,
    text, output or cluster that cannot serve.
    """
    from foldrank.disk.staging import check_output, staged_folder
    from foldrank.model.checkpoint import Checkpoint, check_finite
    from foldrank.plans.bits.once import told_once
    from foldrank.plans.compose import make_plan, parse_all
    from foldrank.plans.models.families import check_family
    from foldrank.plans.models.names import prove_names
    from foldrank.verbs.reading import chosen_text, planning

    parse_all(methods)
    calibration = chosen_text(calibration, calibration_from, like)
    asked = recovery(recover, recover_text or calibration, recover_tokens, recover_steps, bos=bos,
                     minutes=recover_minutes, target=recover_target, select=recover_select, lisa=recover_lisa,
                     like=None if recover_text else like)
    if output is not None:
        check_output(output, force=force)
    checkpoint = Checkpoint.open(model, offline=offline, trust_remote_code=trust_remote_code, progress=progress)
    check_family(checkpoint)
    windows, drawn = planning(checkpoint, calibration, calibration_tokens, asked, seed=seed, bos=bos, like=like)
    for note in prove_names(checkpoint, trust_remote_code=trust_remote_code).notes:
        logging.getLogger("foldrank").warning("%s: %s", checkpoint.name, note)
    check_finite(checkpoint, progress)
    after: Callable[[Decoder, Plan, Shelf], Plan] | None = None
    if asked is not None and drawn is not None:
        from foldrank.plans.training.recovering import recovered

        after = partial(recovered, asked=asked, windows=drawn, seed=seed, progress=progress)
    with sharded(shards, ray) as parts:
        made = make_plan(checkpoint, methods, windows=windows, seed=seed, device=device, progress=progress, after=after,
                         shards=parts)
    made = told_once(made)
    if output is not None:
        with staged_folder(output, force=force) as folder:
            made.write(folder)
    return made


@contextmanager
def sharded(count: int, ray: str | None) -> Iterator[Shards]:
    """So many parts of the calibration windows, here or on a cluster. Raises ValueError, ProviderUnavailable where Ray
    is not installed, SourceError where no cluster answers."""
    from foldrank.installed import require
    from foldrank.plans.shards import Shards

    if count < 1:
        raise ValueError(f"{count} shards; give 1 or more")
    if ray is None:
        yield Shards(count)
        return
    require({"ray": "ray"})
    from foldrank.verbs.ray_shards import on_cluster

    with on_cluster(ray, count) as parts:
        yield parts


def recovery(
    kind: str | None, text: str | Path | None, tokens: int | None, steps: int | None, *, bos: str = "auto",
    minutes: float | None = None, target: str | None = None, select: str | None = None, lisa: int | None = None,
    like: str | Path | None = None,
) -> Recovery | None:
    """What was asked for. Raises ValueError on a name there is not, too little of tokens, steps or minutes, or options
    of a recovery that was not asked for."""
    from foldrank.plans.training.adapters import RATES
    from foldrank.plans.training.gradients import TARGETS
    from foldrank.plans.training.recovering import LEAST_TOKENS, Recovery
    from foldrank.plans.training.sampling import SELECTS

    if kind is None and minutes is None:
        if target or select or lisa:
            raise ValueError("recover: its target, selection and lisa are given, but no recovery; give --recover too")
        return None
    if (tokens is not None and tokens < LEAST_TOKENS) or (steps is not None and steps < 1):
        few = f"{tokens} tokens and {steps} steps are too few"
        raise ValueError(f"recover: {few}; give {LEAST_TOKENS} tokens and 1 step or more")
    if minutes is not None and (steps is not None or not 0 < minutes < float("inf")):
        raise ValueError(f"recover: {minutes} minutes and {steps} steps; give one of the two, above 0")
    if lisa is not None and lisa < 1:
        raise ValueError(f"recover: {lisa} blocks at a time; give 1 or more")
    return Recovery(
        None if kind is None else _known(kind, RATES, "recover"), None if text is None else Path(text).expanduser(),
        tokens, steps, bos, minutes, _known(target or "logits", TARGETS, "recover target"),
        _known(select or "random", SELECTS, "recover select"), lisa or 0,
        None if like is None else Path(like).expanduser())


def _known(given: str, names: Iterable[N], what: str) -> N:
    """The name among those known. Raises ValueError."""
    for name in names:
        if name == given:
            return name
    raise ValueError(f"{what} {given!r}: known are {', '.join(names)}")
