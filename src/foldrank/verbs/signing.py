"""Signatures of bundles, through OpenSSF's model-signing with elliptic curve keys: nothing here uses the network.

A signature lies beside its bundle, not in it: the bundle's manifest names every file that it holds, and the signature
covers the manifest.
"""

from __future__ import annotations

import base64
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from foldrank import strictjson
from foldrank.bundle.bundle import MANIFEST, Bundle
from foldrank.errors import BundleError, SourceError
from foldrank.installed import require

SUFFIX = ".sig"
_NEEDED = {"model_signing": "sign", "OpenSSL": "sign"}
_CURVES = "an elliptic curve key (P-256, P-384 or P-521) as PEM"
_ODD = (ValueError, KeyError, IndexError, TypeError, AttributeError)
"""What model-signing lets out where a key or a signature is not of the form it expects."""


def beside(bundle: Path) -> Path:
    """Where a bundle's signature lies: `DIR.sig` beside DIR."""
    return bundle.with_name(bundle.name + SUFFIX)


def signature_of(bundle: Bundle, private_key: Path, password: bytes | None = None) -> bytes:
    """A signature, in Sigstore's bundle format, over the sha256 of every file of the bundle. Raises SourceError (a key
    that cannot be used), ProviderUnavailable (model-signing is not installed)."""
    require(_NEEDED)
    from model_signing import signing

    config = signing.Config()
    with _usable(private_key, "private key", " or its password is wrong or missing"), _quietly():
        config.use_elliptic_key_signer(private_key=private_key, password=password)
    with tempfile.TemporaryDirectory() as folder, _quietly():
        config.sign(bundle.path, Path(folder) / "signature")
        return (Path(folder) / "signature").read_bytes()


def check_signature(bundle: Bundle, signature: Path, public_key: Path) -> str | None:
    """Prove that whoever has the private key signed this manifest, and with it every file that the manifest names.

    Gives the sha256 of the key that the signature names. Raises BundleError (not by this key, or of other files),
    SourceError (a file that cannot be read), ProviderUnavailable (model-signing is not installed).
    """
    require(_NEEDED)
    from cryptography.exceptions import InvalidSignature
    from model_signing import verifying

    config = verifying.Config()
    with _usable(public_key, "public key"), _quietly():
        config.use_elliptic_key_verifier(public_key=public_key)
    data = _read(signature)
    with tempfile.TemporaryDirectory() as folder:
        held = Path(folder) / "signature"  # what is read below is what was proved, whoever writes meanwhile
        held.write_text(json.dumps(data), encoding="utf-8")
        try:
            with _quietly():
                config.verify(bundle.path, held)
            covered = _covered(data)
        except InvalidSignature:
            raise BundleError(signature, "is not by this key, or was changed", "ask who gave you the bundle") from None
        except _ODD as error:
            what = f"does not fit {bundle.path.name}: {' '.join(str(error).split())[:500]}"
            raise BundleError(signature, what, "give its signer's key; sign again where files came later") from None
    if MANIFEST not in covered:
        what = f"leaves out {MANIFEST}, which names every file"
        raise BundleError(signature, what, "sign with `foldrank sign`")
    return key_of(data)


def key_of(signature: dict[str, Any]) -> str | None:
    """sha256 of the public key's PEM, as a signature, proved before, names it."""
    hint = signature["verificationMaterial"]["publicKey"].get("hint")
    return None if hint is None else str(hint)


def _read(signature: Path) -> dict[str, Any]:
    try:
        if not signature.is_file() or signature.is_symlink():
            raise SourceError(signature, "no such file", "give the file that `foldrank sign` wrote")
        data = strictjson.read(signature)
    except OSError as error:
        raise SourceError(signature, f"cannot be read: {error.strerror}", "give a file you may read") from None
    except strictjson.JsonError as error:
        raise BundleError(signature, f"is no signature: {error}", "sign with `foldrank sign`") from None
    if not isinstance(data, dict):
        raise BundleError(signature, "is no signature: not a JSON object", "sign with `foldrank sign`")
    return data


def _covered(data: dict[str, Any]) -> set[str]:
    """Names of the files that a signature, proved before, is over."""
    statement = json.loads(base64.b64decode(data["dsseEnvelope"]["payload"]))
    return {resource["name"] for resource in statement["predicate"]["resources"]}


@contextlib.contextmanager
def _usable(key: Path, what: str, more: str = "") -> Iterator[None]:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        yield
    except OSError as error:
        raise SourceError(key, f"cannot be read: {error.strerror}", f"give {_CURVES}") from None
    except (*_ODD, UnsupportedAlgorithm):
        raise SourceError(key, f"is no {what} that can be used{more and ','}{more}", f"give {_CURVES}") from None


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """What model-signing prints goes to standard error: standard output is ours."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
