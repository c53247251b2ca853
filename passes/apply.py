"""Apply a plan to a dense bundle: passes over its graph, weights streamed into a new bundle. No torch, no runtime."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir

from foldrank import strictjson
from foldrank.bundle.bundle import MANIFEST, Bundle, FileEntry, Manifest, seal
from foldrank.disk.staging import check_output, staged_folder, sync_file, sync_tree
from foldrank.edits.anatomy import Anatomy
from foldrank.errors import BundleError, PlanMismatch
from foldrank.graph.anatomy import read_anatomy
from foldrank.graph.invariants import check_file
from foldrank.graph.safe.load import load_model
from foldrank.passes.base import Quantizer
from foldrank.passes.configs import shrink_config, shrink_genai_config
from foldrank.passes.hashed_file import HashedFile
from foldrank.passes.link import link_model
from foldrank.passes.pipeline import prepare, transform_in_place
from foldrank.passes.proof import known_weights, proofs_beside
from foldrank.passes.write import DATA, MODEL, stream_model
from foldrank.planfile.factors import FactorFile
from foldrank.planfile.plan import Plan
from foldrank.progress import SILENT, Progress
from foldrank.reports.receipts import FORM, Receipts
from foldrank.versions import versions

FACTORS = "factors.safetensors"
_CONFIGS = ("config.json", "genai_config.json")
_OWN = ("reports/", "plan/", "README.md", "report.html", MANIFEST, MODEL, *_CONFIGS)
"""What a new bundle makes itself; all else is copied."""


def apply_plan(
    bundle: Bundle, plan: Plan, out: Path, *, command: str, seed: int | None, force: bool = False,
    progress: Progress = SILENT, card: Callable[[Path, Manifest], str] | None = None, link_data: bool = False,
    quantizer: Quantizer | None = None,
) -> Bundle:
    """Write the compressed bundle `out`, whole or not at all, and return it.

    `card` makes README.md from the staged folder and the dense bundle's manifest; without it there is none.
    `quantizer` is needed where the plan stores weights in few bits. `link_data` shares the dense bundle's data files,
    where no weight changes and the file system can (passes/link.py).
    Peak memory: about twice the largest tensor. Raises PlanMismatch (another model's plan, a compressed bundle),
    PassRefused, GraphNotRecognized, UnsafeModel, SourceError (the output).
    """
    check_output(out, force=force)
    _check_source(bundle, plan)
    model = load_model(bundle.model)
    view, receipt = prepare(model)
    decoder = view.decoder
    source = read_anatomy(decoder)
    with proofs_beside(known_weights(decoder, bundle.weight_digests)) as proofs, \
            staged_folder(out, force=force) as stage, ThreadPoolExecutor(1, "copy") as pool:
        old_data = _data_files(model)
        receipts = transform_in_place(model, plan, (view, receipt), progress, quantizer)
        copied = pool.submit(_copies, bundle, old_data, plan, stage)
        model.graph.name = _graph_name(bundle, plan, model)
        with contextlib.ExitStack() as writing:
            if link_data:
                known = link_model(model, bundle, stage)
            else:
                data = writing.enter_context(HashedFile(stage / DATA))
                known = {MODEL: stream_model(model, data, progress, between=partial(proofs.settle, wait=False))}
            check_file(stage / MODEL, "the written graph")
            _write_configs(bundle, plan, source, stage)
            (stage / "reports").mkdir()
            told = Receipts([row for receipt in receipts for row in receipt.rows()])
            (stage / FORM.file).write_bytes(FORM.data(told))
            known |= copied.result()
            if card is not None:
                (stage / "README.md").write_text(card(stage, bundle.manifest), encoding="utf-8")
            proofs.settle()
            sync_tree(stage)  # while the last weights are hashed; little is left to sync at the end
            if not link_data:
                known[DATA] = data.entry()
            dense = bundle.manifest
            manifest = seal(
                stage, command=command, seed=seed, source=dense.source, exporter=dense.exporter,
                exporter_reason=dense.exporter_reason, export_proof=dense.export_proof, notes=dense.notes,
                padding=dense.padding,
                dtype=dense.dtype, versions=versions(), known=known,
            )
    return Bundle(Path(out).absolute(), manifest)


def _check_source(bundle: Bundle, plan: Plan) -> None:
    source = plan.document.source
    if bundle.plan is not None:
        raise PlanMismatch(bundle.path, "is compressed already", "apply the plan to the dense bundle")
    found = bundle.manifest.source.get("config_sha256")
    if found is not None and found != source.config_sha256:
        name = bundle.manifest.source.get("name", "another checkpoint")
        what = f"was exported from {name}, the plan was made for {source.name} (their config.json differ)"
        raise PlanMismatch(bundle.path, what, "plan again for this checkpoint")


def _graph_name(bundle: Bundle, plan: Plan, model: ir.Model) -> str:
    """A name no other bundle's graph has: engine caches are keyed on it."""
    made_of = [*(entry.sha256 for entry in bundle.manifest.files.values()), plan.document.text()]
    return f"{model.graph.name or 'graph'}_{hashlib.sha256(' '.join(made_of).encode()).hexdigest()[:12]}"


def _data_files(model: ir.Model) -> frozenset[str]:
    """Names of the files that hold the model's weights."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return frozenset(str(tensor.location) for tensor in tensors if isinstance(tensor, ir.ExternalTensor))


def _copies(bundle: Bundle, weights: frozenset[str], plan: Plan, stage: Path) -> dict[str, FileEntry]:
    """What needs no pass: the dense bundle's other files and the plan's folder. Gives the digests that are known."""
    return _copy_rest(bundle, weights, stage) | _write_plan(plan, stage)


def _copy_rest(bundle: Bundle, weights: frozenset[str], stage: Path) -> dict[str, FileEntry]:
    """Tokenizer and the like, byte for byte; the files of old weights are not among them."""
    known = {}
    for name, entry in bundle.manifest.files.items():
        if name.startswith(_OWN) or name in weights or name == DATA:
            continue
        (stage / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.path / name, stage / name)
        known[name] = entry
    return known


def _write_configs(bundle: Bundle, plan: Plan, source: Anatomy, stage: Path) -> None:
    after = plan.anatomy(source)
    for name, shrink in (("config.json", shrink_config), ("genai_config.json", shrink_genai_config)):
        if (config := _config(bundle, name)) is not None:
            if name == "genai_config.json" and not isinstance((config.get("model") or {}).get("decoder"), dict):
                raise BundleError(bundle.path / name, "says nothing of model.decoder", "export again")
            _write_json(stage / name, shrink(config, source, after))


def _config(bundle: Bundle, name: str) -> dict[str, Any] | None:
    try:
        data = bundle.json(name)
    except strictjson.JsonError as error:
        raise BundleError(bundle.path / name, str(error), "export again") from None
    if data is not None and not isinstance(data, dict):
        raise BundleError(bundle.path / name, "is not a JSON object", "export again")
    return data


def _write_plan(plan: Plan, stage: Path) -> dict[str, FileEntry]:
    """The plan's folder. Factors that lie in a file are copied: they may be larger than memory."""
    folder = stage / "plan"
    folder.mkdir()
    factors = plan.document.factors
    if factors is None or not isinstance(plan.arrays, FactorFile):
        plan.write(folder)
        return {}
    shutil.copyfile(plan.arrays.path, folder / FACTORS)
    sync_file(folder / FACTORS)  # here, beside the writing of weights, rather than at the end
    (folder / "plan.json").write_text(plan.document.text(), encoding="utf-8")
    if plan.diagnostics is not None:
        _write_json(folder / "diagnostics.json", plan.diagnostics)
    return {f"plan/{FACTORS}": FileEntry(factors.sha256, factors.bytes)}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(strictjson.dumps(value), encoding="utf-8")
