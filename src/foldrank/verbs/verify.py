"""`foldrank verify`: whether a bundle, or a plan, is what its digests and its signature say. Needs neither torch nor a
runtime, and runs nothing of what it looks at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foldrank.bundle.bundle import MANIFEST, Bundle
from foldrank.digests import sha256_file
from foldrank.errors import BundleError, SourceError
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.stored import stored_weights
from foldrank.planfile.plan import Plan
from foldrank.reports import bench, receipts, validate
from foldrank.verbs.signing import beside, check_signature

_FORMS = (receipts.FORM, validate.FORM, bench.FORM)


def verify(
    path: str | Path, *, public_key: str | Path | None = None, signature: str | Path | None = None,
    require_signature: bool = False,
) -> dict[str, Any]:
    """Check a bundle, or a plan's folder, and change nothing. Every byte is read anew, whatever was hashed before.

    `public_key`: PEM of the signer's; with it the bundle must be signed by that key. `signature`: its file, default
    `DIR.sig`. `require_signature` refuses to go on without a key, so that a key left out by mistake passes nothing.

    Gives `kind`, `checks` (each: `check` and `found`), `not_checked` (each: `check` and `why`), of a bundle also
    `manifest_sha256` and `signature` ({`file`, `key_sha256`} or null). Raises SourceError where something is missing or
    cannot be read; BundleError, UnsafeModel or PlanFormatError where something is not what it must be; ValueError where
    the arguments do not go together.
    """
    path = Path(path).expanduser().absolute()
    if public_key is None and (require_signature or signature is not None):
        raise ValueError("a signature is judged by its signer's key: give --public-key PEM")
    if (path / "plan.json").is_file() and not (path / MANIFEST).exists():
        if public_key is not None:
            raise ValueError(f"{path.name} is a plan; signatures are of bundles")
        return _plan(path)
    place = beside(path) if signature is None else Path(signature).expanduser().absolute()
    bundle, found = examined(path)
    if public_key is None:
        why = f"{place.name} is there: give --public-key PEM" if place.is_file() else f"there is none ({place.name})"
        return found | {"not_checked": [{"check": "signature", "why": why}, *found["not_checked"]], "signature": None}
    if signature is None and not place.exists():
        raise BundleError(path, f"is not signed: there is no {place.name}", "ask its maker, or give --signature FILE")
    key = check_signature(bundle, place, Path(public_key).expanduser())
    told = f"{place.name}, over {MANIFEST} and so over every file" + (f", by the key {key}" if key else "")
    return found | {"checks": [*found["checks"], {"check": "signature", "found": told}],
                    "signature": {"file": str(place), "key_sha256": key}}


def examined(path: Path) -> tuple[Bundle, dict[str, Any]]:
    """A bundle whose every file was read anew, and what was found. Raises what `verify` raises but ValueError."""
    bundle = Bundle.open(path, digest=sha256_file)  # which looks into the configs too
    files = bundle.manifest.files
    size = sum(entry.bytes for entry in files.values())
    checks = {
        "files": f"{len(files)} files of {size:,} bytes, each by size and sha256, and no other file",
        "configs": "nothing in them names code, a library or a file elsewhere",
        "graph": _graph(bundle),
    }
    not_checked = {"numbers": "what the graph computes; `foldrank selftest` replays it, `foldrank validate` proves it"}
    if noted := bundle.weight_digests:
        checks["weights"] = _weights(bundle, noted)
    else:
        not_checked["weights"] = f"{MANIFEST} notes no digests of single weights"
    if bundle.plan is not None:
        checks["plan"] = _plan_of(bundle, bundle.plan)
    if read := [form.file for form in _FORMS if form.read(bundle) is not None]:
        checks["reports"] = f"{', '.join(read)}: of their schemas"
    return bundle, {
        "kind": "bundle", "path": str(path), "manifest_sha256": sha256_file(path / MANIFEST),
        "checks": [{"check": name, "found": what} for name, what in checks.items()],
        "not_checked": [{"check": name, "why": why} for name, why in not_checked.items()],
    }


def _graph(bundle: Bundle) -> str:
    model = load_model(bundle.model)
    return f"{model.graph.num_nodes()} nodes, read by the rules of safe loading"


def _weights(bundle: Bundle, noted: dict[str, str]) -> str:
    """`apply` takes the manifest's word for these digests: here they are taken of the weights."""
    stored = stored_weights(bundle.model)
    held = {} if stored is None else stored[1]
    if wrong := [site for site, digest in noted.items() if held.get(site) != digest]:
        what = f"notes other weights than the graph holds at {', '.join(wrong[:5])}"
        raise BundleError(bundle.path / MANIFEST, what, "export again")
    return f"{len(noted)} weights have the digests that {MANIFEST} notes"


def _plan_of(bundle: Bundle, folder: Path) -> str:
    plan, found = _read_plan(folder)
    wanted = bundle.manifest.source.get("config_sha256")
    if wanted is not None and wanted != plan.document.source.config_sha256:
        what = f"was made for {plan.document.source.name}, the bundle of another model"
        raise BundleError(folder, what, "apply again")
    return found


def _plan(folder: Path) -> dict[str, Any]:
    _, found = _read_plan(folder)
    why = "signatures are of bundles"
    return {"kind": "plan", "path": str(folder), "checks": [{"check": "plan", "found": found}],
            "not_checked": [{"check": "signature", "why": why}]}


def _read_plan(folder: Path) -> tuple[Plan, str]:
    """Every array is read, since only then it is known to be finite."""
    try:
        plan = Plan.read(folder)
        arrays = sum(1 for _ in plan.arrays.values())
    except OSError as error:
        raise SourceError(error.filename or folder, f"cannot be read: {error.strerror}", "give a plan you may read"
                          ) from None
    return plan, (f"{len(plan.edits)} edits, sealed by their digest; "
                  + (f"{arrays} arrays of the sha256 it names, all finite" if arrays else "no arrays"))
