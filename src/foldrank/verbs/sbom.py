"""`foldrank sbom`: a bill of materials, of a bundle or of this install, in CycloneDX 1.6 JSON. Needs no network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from foldrank.bundle.bundle import Bundle
from foldrank.disk.staging import check_file_output, write_output


def sbom(
    bundle: str | Path | Bundle | None, output: str | Path, *, install: bool = False, force: bool = False
) -> dict[str, Any]:
    """Write the file `output`: what the bundle is made of, or with `install` what foldrank is installed with.

    The same input gives the same bytes where SOURCE_DATE_EPOCH is set. Gives `output`, `components` (how many) and
    `serial_number`. Raises ValueError (both, or neither), SourceError, BundleError.
    """
    if (bundle is None) != install:
        raise ValueError("of one thing: give a bundle, or --install")
    opened = bundle if isinstance(bundle, Bundle | None) else Bundle.open(bundle)
    check_file_output(output, outside=None if opened is None else opened.path, force=force)
    if opened is None:
        from foldrank.verbs.bom.of_install import install_bom

        text = install_bom()
    else:
        from foldrank.verbs.bom.of_bundle import bundle_bom

        text = bundle_bom(opened)
    written = write_output(output, text.encode(), force=force)
    told = json.loads(text)
    return {"output": str(written), "components": len(told["components"]), "serial_number": told["serialNumber"]}
