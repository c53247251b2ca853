"""push: a bundle to the Hub, every file of it and nothing else, in one commit; its model card is the repository's."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from foldrank.bundle.bundle import MANIFEST, Bundle, FileEntry
from foldrank.disk import journal
from foldrank.errors import SourceError
from foldrank.installed import require
from foldrank.progress import SILENT, Progress
from foldrank.verified import sha256_of

_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_KEPT = (".gitattributes",)
"""What the Hub itself keeps in a repository."""


def push(
    bundle: Bundle | Path | str, repo: str, *, private: bool = False, revision: str | None = None,
    pull_request: bool = False, message: str | None = None, dry_run: bool = False, progress: Progress = SILENT,
) -> dict[str, Any]:
    """Make the repository OWNER/NAME, if need be, and commit the bundle: files that an earlier commit left there and
    the bundle has not are removed. `pull_request`: as one, for others to look at. `dry_run`: nothing is sent.

    Gives `bundle`, `repo`, `files` (sha256 and bytes by name), `bytes`, `dry_run`, and of what was sent `removed`,
    `url` and `commit`. The token is huggingface_hub's own business (HF_TOKEN, `hf auth login`). Raises ValueError (the
    id), SourceError (offline, no access, the Hub), BundleError, ProviderUnavailable.
    """
    if not _ID.fullmatch(repo):
        raise ValueError(f"repository {repo!r} is not OWNER/NAME")
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    files = _files(opened)
    found: dict[str, Any] = {
        "bundle": str(opened.path), "repo": repo, "dry_run": dry_run,
        "bytes": sum(entry.bytes for entry in files.values()),
        "files": {name: {"sha256": entry.sha256, "bytes": entry.bytes} for name, entry in files.items()},
    }
    if dry_run:
        return found
    require({"huggingface_hub": "hub"})
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise SourceError(repo, "nothing can be sent (HF_HUB_OFFLINE is set)", "unset it, or look at --dry-run")
    if progress is SILENT:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # before it is imported
    progress.start("push", None)
    try:
        return found | _sent(opened, repo, files, private=private, revision=revision, pull_request=pull_request,
                             message=message or f"foldrank bundle of {opened.manifest.source.get('name', 'a model')}")
    finally:
        progress.finish("push")


def _files(bundle: Bundle) -> dict[str, FileEntry]:
    path = journal.current(bundle.path, MANIFEST)
    return dict(sorted({**bundle.manifest.files, MANIFEST: FileEntry(sha256_of(path), path.stat().st_size)}.items()))


def _sent(
    bundle: Bundle, repo: str, files: dict[str, FileEntry], *, private: bool, revision: str | None, pull_request: bool,
    message: str,
) -> dict[str, Any]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, errors

    api = HfApi(library_name="foldrank")
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        removed = sorted(set(api.list_repo_files(repo, revision=revision)) - {*files, *_KEPT})
        made = api.create_commit(
            repo, commit_message=message, revision=revision, create_pr=pull_request,
            operations=[*(CommitOperationAdd(name, str(journal.current(bundle.path, name))) for name in files),
                        *(CommitOperationDelete(name) for name in removed)])
    except (errors.HfHubHTTPError, errors.HFValidationError, errors.LocalTokenNotFoundError, OSError) as error:
        said = " ".join(str(error).split())[:300]
        raise SourceError(repo, f"the Hub did not take it: {said}",
                          "log in with a token that may write (`hf auth login`, or HF_TOKEN), and try again") from None
    return {"removed": removed, "url": str(made.pr_url or made.commit_url), "commit": made.oid}
