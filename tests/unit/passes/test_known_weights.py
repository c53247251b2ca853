"""Digests of weights in a bundle's manifest: used in place of taking them again, and only while they are true."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from synthetic import ROLES, Decoder, PlanMaker, Shape, random_decoder, sealed, write_bundle

import foldrank.passes.proof
from foldrank.bundle.bundle import Bundle
from foldrank.digests import sha256_file
from foldrank.errors import BundleError, PlanMismatch
from foldrank.planfile.plan import Plan
from foldrank.verbs.apply import apply


@pytest.fixture
def decoder() -> Decoder:
    return random_decoder(Shape(blocks=5), seed=4)


@pytest.fixture
def bundle(decoder: Decoder, tmp_path: Path) -> Bundle:
    return sealed(write_bundle(decoder, tmp_path / "dense"))


def plan_for(decoder: Decoder, bundle: Bundle) -> Plan:
    made = PlanMaker(decoder, bundle.manifest.source["config_sha256"])
    return made.fold((1, 2), {1: 0.0, 2: 1.0}).low_rank("block.03.qkv", 7).low_rank("block.01.up", 5).plan()


def test_digests_are_those_of_each_role_alone(decoder: Decoder, bundle: Bundle) -> None:
    assert bundle.weight_digests == {
        f"block.{i:02d}.{role}": hashlib.sha256(np.ascontiguousarray(block[role]).tobytes()).hexdigest()
        for i, block in enumerate(decoder.blocks) for role in ROLES
    }
    assert Bundle.open(bundle.path) == bundle


def test_known_digests_spare_reading_what_a_plan_replaces(
    decoder: Decoder, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_for(decoder, bundle)
    wanted = apply(bundle, plan, tmp_path / "one")
    taken: list[tuple[int, str]] = []
    digests = foldrank.passes.proof.role_digests
    monkeypatch.setattr(foldrank.passes.proof, "role_digests", lambda linear, tensor, roles: (
        taken.extend((linear.block, role) for role in roles), digests(linear, tensor, roles))[1])
    apply(bundle, plan, tmp_path / "two")
    assert taken == []
    plain = Bundle(bundle.path, sealed(write_bundle(decoder, tmp_path / "plain"), {"block.00.q": "0" * 64}).manifest)
    apply(Bundle(tmp_path / "plain", plain.manifest), plan, tmp_path / "three")
    assert {block for block, _ in taken} == {1, 2, 3}
    files = [{n: e.sha256 for n, e in Bundle.open(tmp_path / name).manifest.files.items()} for name in ("two", "three")]
    assert files[0]["model.onnx.data"] == files[1]["model.onnx.data"] == wanted.manifest.files["model.onnx.data"].sha256


def test_another_weight_is_refused_by_the_known_digest(decoder: Decoder, bundle: Bundle, tmp_path: Path) -> None:
    other = sealed(write_bundle(random_decoder(Shape(blocks=5), seed=5), tmp_path / "other"))
    with pytest.raises(PlanMismatch, match=r"block\.01\.q"):
        apply(other, plan_for(decoder, bundle), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_digests_of_files_that_changed_since_do_not_count(decoder: Decoder, bundle: Bundle, tmp_path: Path) -> None:
    """Weights changed and the manifest's entry with them, as another tool would: they are read again, and refused."""
    data = bundle.path / "model.onnx.data"
    spoiled = bytearray(data.read_bytes())
    spoiled[-4000:] = bytes(4000)
    spoiled[: len(spoiled) // 2] = spoiled[len(spoiled) // 2 :][: len(spoiled) // 2]
    data.write_bytes(spoiled)
    with pytest.raises(BundleError, match="sha256"):
        Bundle.open(bundle.path)
    text = (bundle.path / "manifest.json").read_text()
    was = bundle.manifest.files["model.onnx.data"].sha256
    head, _, tail = text.partition(f'"sha256": "{was}"')
    (bundle.path / "manifest.json").write_text(f'{head}"sha256": "{sha256_file(data)}"{tail}')
    reopened = Bundle.open(bundle.path)
    assert reopened.manifest.weights == bundle.manifest.weights
    assert reopened.weight_digests == {}
    with pytest.raises(PlanMismatch, match="other weights"):
        apply(reopened, plan_for(decoder, bundle), tmp_path / "out")
