"""Parts of the calibration windows: their sums are those of all, and the same wherever each part is computed."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from foldrank.errors import SourceError
from foldrank.plans.compose import parse_all, run_all
from foldrank.plans.method import Result
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.shards import Shards
from foldrank.verbs.ray_shards import RayShards, Worker

MakeModel = Callable[..., Any]
METHODS = ["dipsvd:keep=0.7,align=1", "svd_llm:keep=0.7,align=1", "asvd:keep=0.7,align=1", "afm:keep=0.7,align=1",
           "basis_sharing:keep=0.7,align=1", "recursive:group=2,rank=3"]


class Dies(Exception):
    """What a worker ends of."""


class Held:
    """What was put into the store, for as long as somebody holds this."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing


class FakeRay:
    """Workers in this process. The first of them dies once, at its `at`-th call, and begins anew with what it was
    given, as long as that is held."""

    exceptions = SimpleNamespace(RayError=Dies)

    def __init__(self, at: int | None = None, *, for_good: bool = False) -> None:
        self.at, self.for_good, self.made, self.gone = at, for_good, 0, 0

    def put(self, thing: Any) -> Any:
        return Held(thing)

    def get(self, asked: Any) -> Any:
        return [one() for one in asked] if isinstance(asked, list) else asked()

    def kill(self, _worker: Any) -> None:
        self.gone += 1

    def remote(self, **_options: Any) -> Callable[[type], Any]:
        def new(kind: type, *arguments: Any) -> Any:
            given, rest = [weakref.ref(one) for one in arguments[:2]], arguments[2:]

            def begun() -> Any:
                return kind(*(one().thing for one in given), *rest)  # type: ignore[union-attr]

            held, calls, first = [begun()], [0], self.made == 0
            self.made += 1

            def called(name: str, *asked: Any) -> Callable[[], Any]:
                def now() -> Any:
                    calls[0] += 1
                    if first and calls[0] == self.at:
                        if self.for_good:
                            raise Dies("its node is gone")
                        held[0] = begun()
                    return getattr(held[0], name)(*asked)

                return now

            return SimpleNamespace(**{name: SimpleNamespace(remote=lambda *asked, name=name: called(name, *asked))
                                      for name in ("through", "refused")})

        return lambda kind: SimpleNamespace(remote=lambda *arguments: new(kind, *arguments))


def planned(decoder: Decoder, ids: np.ndarray, methods: list[str], shards: Shards) -> Result:
    return run_all(decoder, parse_all(methods), ids, 0, shards=shards)[-1].result


@pytest.mark.parametrize("method", METHODS)
def test_a_plan_is_the_same_wherever_its_parts_are_summed(make_model: MakeModel, ids: np.ndarray, method: str) -> None:
    """Behind a fold, whose model the workers are given; a worker that dies begins again."""
    decoder = Decoder.of(make_model(4))
    here = planned(decoder, ids, ["slm:blocks=3", method], Shards(4))
    ray = FakeRay(at=3)
    there = planned(decoder, ids, ["slm:blocks=3", method], RayShards(4, ray, torch.get_num_threads()))
    assert ray.made >= 4
    assert there.edits == here.edits
    assert there.arrays.keys() == here.arrays.keys()
    assert all(np.array_equal(there.arrays[name], array) for name, array in here.arrays.items())
    whole = planned(decoder, ids, ["slm:blocks=3", method], Shards())
    assert here.edits == whole.edits
    with torch.no_grad():
        torch.testing.assert_close(here.decoder.forward(ids), whole.decoder.forward(ids), rtol=1e-3, atol=1e-3)


def test_sums_are_those_of_all_inputs(make_model: MakeModel, ids: np.ndarray) -> None:
    """Against float64 products of what the block itself gives; more parts than windows are as many as windows."""
    decoder = Decoder.of(make_model(2))
    block = decoder.blocks[0]
    for count in (1, 4, 99):
        shards = Shards(count)
        sums, states = shards.through(decoder, ids, block, shards.start(decoder, ids), output=True)
        with torch.no_grad():
            left = decoder.run(block, decoder.embed(ids))
        torch.testing.assert_close(states["hidden"], left)
        rows = left.double().numpy().reshape(-1, left.shape[-1])
        assert sums.output is not None
        np.testing.assert_allclose(sums.output.numpy(), rows.T @ rows, rtol=1e-9, atol=1e-9)
        normed = block.module.input_layernorm(decoder.embed(ids)).detach().double().numpy().reshape(rows.shape)
        np.testing.assert_allclose(sums.inputs.inputs["q"].numpy(), normed.T @ normed, rtol=1e-5, atol=1e-5)


def test_a_worker_runs_what_lies_below_first(make_model: MakeModel, ids: np.ndarray) -> None:
    decoder = Decoder.of(make_model(3))
    worker = Worker(decoder, ids, torch.get_num_threads(), {})
    last = worker.through(2, {"grams"}, True)
    again = [worker.through(position, {"grams"}, True) for position in range(3)][-1]
    assert torch.equal(last.inputs.inputs["down"], again.inputs.inputs["down"])
    assert worker.refused() is not None  # it has versions that were not told


def test_a_cluster_that_fails_and_one_of_other_versions_are_told(
    make_model: MakeModel, ids: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = Decoder.of(make_model(2))
    with pytest.raises(SourceError, match="gave up on block 1: its node is gone"):
        planned(decoder, ids, ["svd_llm:keep=0.7,align=1"], RayShards(2, FakeRay(at=3, for_good=True)))
    monkeypatch.setattr("foldrank.verbs.ray_shards.versions", lambda: {"torch": "0.1"})
    with pytest.raises(SourceError, match=r"has .* not None.*install one foldrank"):
        planned(decoder, ids, ["svd_llm:keep=0.7,align=1"], RayShards(2, FakeRay()))
