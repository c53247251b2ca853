"""The whole `compress` of every family of the table, on tiny random checkpoints, at night; in every run one of them,
which fails twice on its way and goes on."""

from pathlib import Path
from typing import Any

import pytest
from nightly import NIGHTLY
from short_bench import SHORT
from tiny_families import TINY, save

import foldrank
from foldrank.bundle.bundle import Bundle
from foldrank.errors import ProviderUnavailable
from foldrank.verbs import bench, compress_stages

FAMILIES = [name for name in TINY if "-" not in name]


@pytest.fixture(autouse=True)
def short_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    """One short workload: that it runs and is written is asked here, not how fast it is."""
    monkeypatch.setattr(bench, "QUICK", SHORT)


def _compressed(model: Path, output: Path, **asked: Any) -> Bundle:
    return foldrank.compress(model, output, calibration_tokens=512, validation_tokens=1024, **asked)


def _whole(made: Bundle) -> None:
    assert made.json("reports/validate.json")["graph"]["passed"] is True
    assert made.json("reports/bench.json")["verdict"] == "pass"
    assert (made.path / "report.html").is_file()


def test_there_are_fifteen() -> None:
    assert len(FAMILIES) == 15


@NIGHTLY
@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_from_checkpoint_to_report(name: str, tmp_path: Path) -> None:
    _whole(_compressed(save(TINY[name], tmp_path / "model"), tmp_path / "out", methods=["slm:keep=0.75"]))


def test_a_run_that_failed_late_goes_on_from_what_it_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a goal and no time for it: what was chosen stays chosen."""
    asked = {"goal": "balanced", "minutes": 1e-3}
    model, output = save(TINY["qwen3"], tmp_path / "model"), tmp_path / "out"
    begun: list[str] = []
    for broken in ("apply", "bench", None):
        with monkeypatch.context() as patched:
            _watched(patched, begun, broken)
            if broken:
                with pytest.raises(ProviderUnavailable, match="broke down"):
                    _compressed(model, output, **asked)
                assert not output.exists()
                assert (tmp_path / "out.unfinished" / "dense" / "manifest.json").is_file()
            else:
                _whole(made := _compressed(model, output, **asked))
    assert [step["method"] for step in made.json("plan/plan.json")["steps"]] == ["rotate", "quantize"]
    chosen = "goal balanced: rotate + quantize:bits=4"
    told = [record.message for record in caplog.records if record.message.startswith(chosen)]
    assert len(told) == 3
    assert len(set(told)) == 1
    assert "more than the minutes given leave" in told[0]
    assert begun == ["export", "plan", "apply", "apply", "validate", "bench", "bench"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]


def _watched(patched: pytest.MonkeyPatch, begun: list[str], broken: str | None) -> None:
    """Each verb of a stage notes that it was begun; one of them breaks down."""
    for name in ("export", "plan", "apply", "validate", "bench"):
        real = getattr(compress_stages, name)

        def verb(*arguments: Any, _name: str = name, _real: Any = real, **options: Any) -> Any:
            begun.append(_name)
            if _name == broken:
                raise ProviderUnavailable(_name, "broke down")
            return _real(*arguments, **options)

        patched.setattr(compress_stages, name, verb)
