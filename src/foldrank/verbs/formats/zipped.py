"""One zip file that unpacks to the bundle: every file as it is, stored, so that equal bundles give equal bytes."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

from foldrank.bundle.bundle import Bundle, FileEntry
from foldrank.progress import Progress, track
from foldrank.verbs.formats.copied import blocks, whole

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The first day that a zip file can name: no clock shows in the bytes."""
_UNIX = 3


def write(bundle: Bundle, path: Path, progress: Progress) -> dict[str, FileEntry]:
    """Write the archive. Weights do not compress, and what is stored can be read in place. Raises BundleError."""
    files = whole(bundle)
    with path.open("xb") as out, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED, strict_timestamps=True) as archive:
        for name, entry in track(list(files.items()), "files", len(files), progress):
            member = zipfile.ZipInfo(name, _EPOCH)
            member.create_system, member.external_attr = _UNIX, (stat.S_IFREG | 0o644) << 16
            member.file_size = entry.bytes
            with archive.open(member, "w", force_zip64=entry.bytes >= zipfile.ZIP64_LIMIT) as held:
                for block in blocks(bundle, name, entry):
                    held.write(block)
    return {}
