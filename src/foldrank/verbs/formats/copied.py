"""Files of a bundle as they go into a package: proved once more while they are copied."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from foldrank.bundle.bundle import MANIFEST, Bundle, FileEntry
from foldrank.disk import journal
from foldrank.errors import BundleError
from foldrank.model.licence import is_licence
from foldrank.progress import Progress, track

_BLOCK = 1 << 20
TOKENIZER = ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
             "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja")
"""What a tokenizer and a generation are read from, by whoever reads them."""


def whole(bundle: Bundle) -> dict[str, FileEntry]:
    """Every file of a bundle, its manifest too, in the order of their names."""
    path = journal.current(bundle.path, MANIFEST)
    manifest = FileEntry(hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)
    return dict(sorted({**bundle.manifest.files, MANIFEST: manifest}.items()))


def beside(bundle: Bundle) -> dict[str, FileEntry]:
    """Tokenizer and licence files."""
    return {name: entry for name, entry in bundle.manifest.files.items()
            if name in TOKENIZER or ("/" not in name and is_licence(name))}


class Proved:
    """A file of a bundle, open for reading; `close` proves that what was read is what the manifest says."""

    def __init__(self, bundle: Bundle, name: str, entry: FileEntry) -> None:
        self._path, self._entry, self._digest, self._size = bundle.path / name, entry, hashlib.sha256(), 0
        self._file = journal.current(bundle.path, name).open("rb")

    def read(self, size: int) -> bytes:
        """The next bytes, at most so many. Raises BundleError where it ends too early."""
        block = self._file.read(size)
        self._digest.update(block)
        self._size += len(block)
        if len(block) < size and self._size < self._entry.bytes:
            raise self._changed()
        return block

    def close(self) -> None:
        """Raises BundleError where other bytes were read, or there are more."""
        self.read(1)
        self._file.close()
        if (self._digest.hexdigest(), self._size) != (self._entry.sha256, self._entry.bytes):
            raise self._changed()

    def _changed(self) -> BundleError:
        return BundleError(self._path, "changed while it was copied", "do not write into it, and try again")


def blocks(bundle: Bundle, name: str, entry: FileEntry) -> Iterator[bytes]:
    """A file's bytes. Raises BundleError where they are not those that the manifest says."""
    file = Proved(bundle, name, entry)
    while block := file.read(_BLOCK):
        yield block
    file.close()


def copy(
    bundle: Bundle, files: dict[str, FileEntry], folder: Path, progress: Progress,
    named: Callable[[str], str] = lambda name: name,
) -> dict[str, FileEntry]:
    """Copy files into a folder; gives their entries by the names that they have there. Raises BundleError."""
    for name, entry in track(list(files.items()), "files", len(files), progress):
        place = folder / named(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("xb") as out:
            for block in blocks(bundle, name, entry):
                out.write(block)
    return {named(name): entry for name, entry in files.items()}
