"""A new graph over the old data files, for quick trials: kilobytes are written, whatever the model's size.

The bundle is whole and its own: a file system that can share blocks between files (btrfs, XFS, bcachefs) clones the
data files, and a later write to either side leaves the other as it is. A hard link would break just that, and would
make the dense bundle unreadable (a data file has one name); a path out of the folder is never safe. So where nothing
can be cloned, nothing is linked. Weights of blocks that left stay in the file, unread: ship what `apply` writes.
"""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import onnx_ir as ir

from foldrank.bundle.bundle import Bundle, FileEntry
from foldrank.errors import PassRefused, SourceError
from foldrank.passes.write import INLINE_BYTES, MODEL, in_graph

_FICLONE = 0x40049409
"""linux/fs.h: _IOW(0x94, 9, int)."""
_CANNOT = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS)


def link_model(model: ir.Model, bundle: Bundle, folder: Path) -> dict[str, FileEntry]:
    """Write model.onnx and clone the data files it reads; returns their digests.

    Raises PassRefused where a tensor is not one of the bundle's as it lies on disk, SourceError where the file system
    cannot clone, OSError.
    """
    values, changed = list(model.graph.initializers.values()), []
    files: dict[str, FileEntry] = {}
    for value in values:
        tensor = value.const_value
        assert tensor is not None
        if isinstance(tensor, ir.ExternalTensor):
            files[str(tensor.location)] = bundle.manifest.files[str(tensor.location)]
        elif tensor.nbytes <= INLINE_BYTES or not isinstance(tensor, ir.LazyTensor):
            value.const_value = in_graph(tensor, str(value.name))
        else:
            changed.append(str(value.name))
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise PassRefused("link_data", [f"the plan changes weights: {', '.join(changed[:3])}{more}"],
                          "leave out --link-data, or fold with the rule top alone")
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        _clone(bundle.path / name, folder / name)
    graph = ir.to_proto(model).SerializeToString()
    (folder / MODEL).write_bytes(graph)
    return {**files, MODEL: FileEntry(hashlib.sha256(graph).hexdigest(), len(graph))}


def _clone(source: Path, target: Path) -> None:
    """Make `target` a file of its own that shares the source's blocks on disk."""
    flags = os.O_RDONLY | os.O_NOFOLLOW
    with os.fdopen(os.open(source, flags), "rb") as old, target.open("xb") as new:
        try:
            share_blocks(old.fileno(), new.fileno())
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            raise SourceError(
                target.parent, f"its file system cannot share blocks with {source} ({os.strerror(error.errno)})",
                "leave out --link-data, or choose an -o on the bundle's own btrfs or XFS",
            ) from None


def share_blocks(source: int, target: int) -> None:
    """Clone a whole open file into another (Linux). Raises OSError: ENOSYS on other systems."""
    try:
        import fcntl
    except ImportError:
        raise OSError(errno.ENOSYS, "no such call") from None
    fcntl.ioctl(target, _FICLONE, source)
