"""The front: nothing on it is beaten, everything off it is, and what failed is not on it."""

import itertools
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foldrank.verbs.sweeping.front import drawn, front, table


def result(size: int, nats: float, verdict: str = "pass") -> dict[str, Any]:
    return {"bytes": size, "verdict": verdict, "changes": {"keep": "0.9"},
            "quality": {"kl_nats": nats, "perplexity_ratio": 1.1, "top1_agreement": 0.9}}


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6), st.booleans()), max_size=12))
def test_nothing_on_it_is_beaten_and_everything_off_it_is(points: list[tuple[int, int, bool]]) -> None:
    results = {str(n): result(size, float(nats), "pass" if passed else "fail")
               for n, (size, nats, passed) in enumerate(points)}
    found = front(results)
    spots = {name: (r["bytes"], r["quality"]["kl_nats"]) for name, r in results.items() if r["verdict"] == "pass"}
    assert set(found) <= set(spots)
    for one, other in itertools.permutations(found, 2):
        assert not (spots[one][0] <= spots[other][0] and spots[one][1] <= spots[other][1])
    for name in set(spots) - set(found):
        assert any(spots[best][0] <= spots[name][0] and spots[best][1] <= spots[name][1] for best in found)


def test_the_table_has_every_candidate_and_every_failure() -> None:
    text = table({"a": result(10, 0.5), "b": result(20, 0.1, "fail")}, ["a"], {"c": "no such method"})
    assert text.count("keep=0.9") == 2
    assert "* `c`: no such method" in text


def test_the_same_results_are_drawn_in_the_same_bytes() -> None:
    results = {"a": result(10, 0.5), "b": result(20, 0.1)}
    assert drawn(results, ["a"]) == drawn(dict(reversed(results.items())), ["a"])
