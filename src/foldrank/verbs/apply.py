"""`foldrank apply`: a plan applied to a dense bundle, by graph passes alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from foldrank.bundle.bundle import MANIFEST, Bundle, Manifest
from foldrank.planfile.plan import Plan
from foldrank.progress import SILENT, Progress

if TYPE_CHECKING:
    from foldrank.passes.base import Quantizer


def apply(
    bundle: Bundle | Path | str, plan: Plan | Path | str, output: Path | str, *, seed: int | None = 0,
    force: bool = False, progress: Progress = SILENT, link_data: bool = False,
) -> Bundle:
    """Write the compressed bundle `output`. Needs no torch, and onnxruntime only for plans that store weights in few
    bits: its quantizer does that.

    `link_data`, for quick trials: where only blocks leave, write a new graph alone and let its data files share the
    dense bundle's blocks on disk. The manifest's command says so, since weights that left are still in those files.

    Raises SourceError, BundleError, PlanFormatError, PlanMismatch, PassRefused, GraphNotRecognized, UnsafeModel.
    """
    from foldrank.disk.staging import check_output
    from foldrank.passes.apply import apply_plan

    check_output(output, force=force)
    plan = plan if isinstance(plan, Plan) else Plan.read(plan)
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    return apply_plan(
        bundle, plan, Path(output), command="apply --link-data" if link_data else "apply", seed=seed, force=force,
        progress=progress, card=_card, link_data=link_data, quantizer=_quantizer(plan),
    )


def _quantizer(plan: Plan) -> Quantizer | None:
    if not plan.needs_quantizer:
        return None
    from foldrank.runtime.quantizer import quantize

    return quantize


def _card(folder: Path, dense: Manifest) -> str:
    """The model card as far as it is known before validation and benchmark."""
    from foldrank.reporting.card import model_card

    known = {"source": dense.source, "exporter": dense.exporter, "exporter_reason": dense.exporter_reason,
             "dtype": dense.dtype, "export_proof": dense.export_proof, "notes": dense.notes,
             "padding": dense.padding}
    return model_card(folder, manifest=known, also=(MANIFEST,))
