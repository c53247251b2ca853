"""`foldrank sign`: a signature beside a bundle, by which its receiver knows who made it. Needs neither torch nor a
runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from foldrank.bundle.bundle import Bundle
from foldrank.disk.staging import check_file_output, write_output
from foldrank.errors import SourceError
from foldrank.verbs.signing import beside, key_of, signature_of
from foldrank.verbs.verify import examined

_MOST_BYTES = 4096
"""Of a password."""


def sign(
    bundle: str | Path | Bundle, output: str | Path | None = None, *, private_key: str | Path,
    password_file: str | Path | None = None, force: bool = False,
) -> dict[str, Any]:
    """Check the bundle as `verify` does, then write its signature: `output`, default `DIR.sig` beside it.

    `private_key`: PEM of a P-256, P-384 or P-521 key; `password_file` holds its password on one line. Gives `bundle`,
    `signature`, `manifest_sha256` and `key_sha256`, by which `verify` names the key. Signing comes last: after a file
    is added to the bundle, a report too, the signature fits no more. Raises SourceError, ProviderUnavailable (extra
    `sign`), and what `verify` raises.
    """
    given = Path(bundle.path if isinstance(bundle, Bundle) else bundle).expanduser().absolute()
    target = beside(given) if output is None else Path(output).expanduser().absolute()
    check_file_output(target, outside=given, force=force)
    password = None if password_file is None else _password(Path(password_file).expanduser())
    opened, found = examined(given)
    signature = signature_of(opened, Path(private_key).expanduser(), password)
    written = write_output(target, signature, force=force)
    return {"bundle": str(opened.path), "signature": str(written), "key_sha256": key_of(json.loads(signature)),
            "manifest_sha256": found["manifest_sha256"]}


def _password(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).rstrip(b"\r\n")
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        raise SourceError(path, what, "give a file with the key's password on one line") from None
