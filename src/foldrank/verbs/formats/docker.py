"""A folder for `docker build`: the bundle, a Dockerfile, and an entry that runs the self-test and then serves."""

from __future__ import annotations

from pathlib import Path

from foldrank import __version__
from foldrank.bundle.bundle import Bundle, FileEntry
from foldrank.progress import Progress
from foldrank.verbs.formats import copied

_DOCKERFILE = """\
FROM python:3.12-slim

# wheels/ may hold foldrank's wheel (`make wheel`), which is on no index yet, and others that are to be preferred.
COPY wheels /wheels
RUN pip install --no-cache-dir --find-links /wheels "foldrank[cpu,serve]=={version}" && \\
    useradd --create-home --uid 10001 foldrank

USER foldrank
COPY --chown=10001 bundle /bundle
ENV ORT_DISABLE_TELEMETRY=1 PYTHONUNBUFFERED=1 MODEL_NAME=model
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \\
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
COPY --chmod=755 entry.sh /entry.sh
ENTRYPOINT ["/entry.sh"]
"""
_ENTRY = """\
#!/bin/sh
# Every byte against the manifest; then `serve`, which replays the bundle's self-test before it listens. Options of
# `foldrank serve` follow as they are, and FOLDRANK_API_KEY is what clients must send.
set -eu
foldrank verify /bundle --json > /dev/null
exec foldrank serve /bundle --host 0.0.0.0 --port 8000 --name "$MODEL_NAME" "$@"
"""
_README = """\
# A container that serves the bundle

    cp foldrank-{version}-py3-none-any.whl wheels/      # until foldrank is on an index
    docker build -t my-model .
    docker run --rm -p 127.0.0.1:8000:8000 -e FOLDRANK_API_KEY=secret my-model
    curl localhost:8000/v1/models -H "Authorization: Bearer secret"
"""


def write(bundle: Bundle, folder: Path, progress: Progress) -> dict[str, FileEntry]:
    """Fill an empty folder. Raises BundleError."""
    known = copied.copy(bundle, copied.whole(bundle), folder, progress, lambda name: f"bundle/{name}")
    for name, text in (("Dockerfile", _DOCKERFILE), ("entry.sh", _ENTRY), ("README.md", _README)):
        (folder / name).write_text(text.replace("{version}", __version__), encoding="utf-8")
    (folder / "entry.sh").chmod(0o755)
    (folder / "wheels").mkdir()
    (folder / "wheels" / "README.md").write_text("Wheels that `docker build` installs from.\n", encoding="utf-8")
    (folder / ".dockerignore").write_text("README.md\n", encoding="utf-8")
    return known
