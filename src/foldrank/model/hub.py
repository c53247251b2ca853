"""A model id to a folder: through huggingface_hub's own client and cache, or not at all where that is forbidden."""

from __future__ import annotations

import os
import re
from pathlib import Path

from foldrank.errors import SourceError

_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.md", "LICENSE*", "LICENCE*", "NOTICE*",
          "COPYING*"]
"""What a checkpoint consists of; pickled weights are never fetched."""


def snapshot(model: str, *, offline: bool) -> Path:
    """The folder of a hub id's files, fetched if need be and allowed. Raises SourceError."""
    if not _ID.fullmatch(model):
        raise SourceError(model, "no such folder", "give a checkpoint folder or a hub id (owner/name)")
    offline = offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    try:
        from huggingface_hub import errors, snapshot_download
    except ModuleNotFoundError:
        raise SourceError(
            model, "no such folder, and huggingface_hub is not installed", "pip install 'foldrank[torch]'"
        ) from None
    try:
        return Path(snapshot_download(model, allow_patterns=_FILES, local_files_only=offline))
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
        raise SourceError(model, _line(error), "check the id, or log in: `hf auth login`") from None
    except errors.LocalEntryNotFoundError:
        what = "no such folder, and not in the hub cache"
        if offline:
            raise SourceError(model, f"{what} (offline)", "fetch it first, or leave --offline out") from None
        raise SourceError(model, f"{what}, and the hub cannot be reached", "check the network or the path") from None
    except (errors.HfHubHTTPError, errors.HFValidationError, ConnectionError) as error:
        raise SourceError(model, f"the hub did not deliver it: {_line(error)}", "try again, or give a folder") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def model_name(folder: Path) -> str:
    """What a folder's model is called: of a snapshot in the hub's cache the model's id, else the folder's own name."""
    cached = folder.parent.parent.name
    if folder.parent.name == "snapshots" and cached.startswith("models--"):
        return cached.removeprefix("models--").replace("--", "/", 1)
    return folder.name
