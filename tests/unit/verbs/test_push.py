"""push: huggingface_hub's own client against a stub of the Hub: what lies there afterwards is the bundle."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import hub_stub
import pytest
from click.testing import CliRunner
from synthetic.bundles import write_bundle
from synthetic.decoders import Shape, random_decoder

from foldrank.bundle.bundle import Bundle
from foldrank.cli.main import cli
from foldrank.errors import BundleError, SourceError
from foldrank.verbs.push import push

pytest.importorskip("huggingface_hub")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(random_decoder(Shape()), tmp_path / "bundle")


def pushed(hub: hub_stub.Hub, *arguments: str, token: str = hub_stub.TOKEN) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: the client reads its settings when it is imported."""
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": token, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
           "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return subprocess.run([sys.executable, "-m", "foldrank", "push", *arguments, "--json", "-q"], env=env,
                          capture_output=True, text=True, check=False)


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_repository_holds_the_bundle_and_no_older_file(bundle: Bundle) -> None:
    with hub_stub.running() as hub:
        hub.repos["me/small"] = {".gitattributes": b"x", "plan/old.json": b"old"}
        done = pushed(hub, str(bundle.path), "me/small", "--message", "first", "--pull-request")
        found: dict[str, Any] = json.loads(done.stdout or "{}")
        assert done.returncode == 0, done.stderr
        assert hub.repos["me/small"] == {**files_of(bundle.path), ".gitattributes": b"x"}
        assert (found["removed"], found["commit"]) == (["plan/old.json"], hub_stub.OID)
        assert found["url"].endswith("/discussions/1")
        assert [commit["summary"] for commit in hub.commits] == ["first"]
        refused = pushed(hub, str(bundle.path), "me/small", token="hf_other")
    assert refused.returncode == 3
    assert "the Hub did not take it" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert len(hub.commits) == 1


def test_a_dry_run_sends_nothing_and_lists_every_file(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    done = CliRunner().invoke(cli, ["push", str(bundle.path), "me/small", "--dry-run", "--json", "-q"])
    found = json.loads(done.stdout)
    assert {name: entry["bytes"] for name, entry in found["files"].items()} == {
        name: len(data) for name, data in files_of(bundle.path).items()}
    assert found["bytes"] == sum(map(len, files_of(bundle.path).values()))


def test_what_cannot_be_sent(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SourceError, match="HF_HUB_OFFLINE"):
        push(bundle, "me/small")
    for repo in ("small", "a/b/c", "../x/y", ""):
        with pytest.raises(ValueError, match="OWNER/NAME"):
            push(bundle, repo, dry_run=True)
    (bundle.path / "config.json").write_text("{}")
    with pytest.raises(BundleError):
        push(bundle.path, "me/small", dry_run=True)
