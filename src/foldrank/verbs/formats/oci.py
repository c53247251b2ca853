"""One tar file with an OCI image layout: the bundle as an artifact, each of its files a layer under its own sha256.

By the image-spec 1.1: `oci-layout`, `index.json`, `blobs/sha256/…`. Layers carry the title by which ORAS names what it
pulls. Blobs are the bundle's files as they are, so a registry holds the digests that the manifest names.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from foldrank.bundle.bundle import Bundle, FileEntry
from foldrank.progress import Progress, track
from foldrank.verbs.formats.copied import Proved, whole

ARTIFACT = "application/vnd.foldrank.bundle.v1"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_EMPTY = b"{}"
_JSON, _BYTES = "application/json", "application/octet-stream"


class _Tar:
    """A tar file whose bytes depend on names and contents alone."""

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, "x", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed by `close`

    def add(self, name: str, size: int, file: Any) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = size, 0o644
        self._tar.addfile(member, file)

    def close(self) -> None:
        self._tar.close()


def write(bundle: Bundle, path: Path, progress: Progress) -> dict[str, FileEntry]:
    """Write the archive. Raises BundleError."""
    files = whole(bundle)
    manifest = _text(_manifest(files, bundle))
    index = _text({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
                   "manifests": [{**_descriptor(_MANIFEST, manifest), "artifactType": ARTIFACT,
                                  "annotations": {"org.opencontainers.image.ref.name": "latest"}}]})
    small = {"oci-layout": _text({"imageLayoutVersion": "1.0.0"}), "index.json": index,
             _place(hashlib.sha256(manifest).hexdigest()): manifest, _place(hashlib.sha256(_EMPTY).hexdigest()): _EMPTY}
    tar = _Tar(path)
    try:
        for name, data in small.items():
            tar.add(name, len(data), io.BytesIO(data))
        seen = set[str](small)
        for name, entry in track(list(files.items()), "files", len(files), progress):
            if _place(entry.sha256) not in seen:
                seen.add(_place(entry.sha256))
                source = Proved(bundle, name, entry)
                tar.add(_place(entry.sha256), entry.bytes, source)
                source.close()
    finally:
        tar.close()
    return {}


def _manifest(files: dict[str, FileEntry], bundle: Bundle) -> dict[str, Any]:
    layers = [{"mediaType": _JSON if name.endswith(".json") else _BYTES, "digest": f"sha256:{entry.sha256}",
               "size": entry.bytes, "annotations": {"org.opencontainers.image.title": name}}
              for name, entry in files.items()]
    return {"schemaVersion": 2, "mediaType": _MANIFEST, "artifactType": ARTIFACT,
            "config": _descriptor("application/vnd.oci.empty.v1+json", _EMPTY), "layers": layers,
            "annotations": {"org.opencontainers.image.created": bundle.manifest.created}}


def _descriptor(kind: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}


def _place(digest: str) -> str:
    return f"blobs/sha256/{digest}"


def _text(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
