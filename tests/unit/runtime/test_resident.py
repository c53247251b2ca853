"""The resident loop on the CPU provider: same buffers and mask as on a device, tokens of the general loop."""

from pathlib import Path

import numpy as np
import pytest

from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.decoding.resident import ResidentDecoder, open_decoder
from foldrank.runtime.providers.provider import Provider

CPU = Provider("cpu")
PROMPT = np.array([[5, 17, 300, 41, 7], [900, 2, 33, 33, 1024]])


@pytest.fixture(scope="module")
def resident(dense_5m: Path) -> ResidentDecoder:
    return ResidentDecoder.open(dense_5m, CPU, threads=1)


@pytest.mark.parametrize("rows", [1, 2])
def test_tokens_are_those_of_the_general_loop(dense_5m: Path, resident: ResidentDecoder, rows: int) -> None:
    resident.capacity = 40
    expected = OrtDecoder.open(dense_5m, CPU, threads=1).generate(PROMPT[:rows], 30)
    np.testing.assert_array_equal(resident.generate(PROMPT[:rows], 30), expected)


def test_a_second_request_forgets_the_first(resident: ResidentDecoder) -> None:
    resident.capacity = 40
    first = resident.generate(PROMPT[:1], 20)
    resident.generate(PROMPT[1:], 35)
    np.testing.assert_array_equal(resident.generate(PROMPT[:1], 20), first)


def test_a_full_cache_and_too_long_a_prompt_are_wrong_use(resident: ResidentDecoder) -> None:
    resident.capacity = 6
    resident.first(PROMPT[:1])
    resident.next()
    with pytest.raises(ValueError, match="full"):
        resident.next()
    resident.capacity = 5
    with pytest.raises(ValueError, match="does not fit"):
        resident.first(PROMPT[:1])


def test_the_cpu_has_no_graph_and_keeps_the_general_loop(dense_5m: Path, resident: ResidentDecoder) -> None:
    assert not resident.graph
    assert resident.why_no_graph == "cpu has none"
    assert isinstance(open_decoder(dense_5m, CPU, threads=1), OrtDecoder)
