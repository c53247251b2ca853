"""A report is written as it was and read as what it is: nothing is added, nothing guessed, and an older one is read."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sample_reports import benchmark, validation

from foldrank.errors import BundleError
from foldrank.reports import bench, receipts, validate
from foldrank.reports.form import Form, Gate, plain
from foldrank.reports.validate import NOT_RUN

RECEIPT = {"pass": "fold_weights", "effect": "approximate", "where": "block.02", "bytes_before": 9, "bytes_after": 3,
           "reason": "blocks 2 to 4 become 1 x 4"}


@pytest.mark.parametrize(("form", "data"), [
    (validate.FORM, validation()), (bench.FORM, benchmark()), (receipts.FORM, {"receipts": [RECEIPT]}),
], ids=["validate", "bench", "receipts"])
def test_what_is_read_and_written_again_says_the_same_and_names_its_schema(form: Form[Any], data: Any) -> None:
    written = json.loads(form.data(form.parse(data)))
    assert written["schema"] == form.schema
    assert _says(data, written)
    assert form.parse(written) == form.parse(data)


def _says(data: Any, written: Any) -> bool:
    """Whether all of the data stands in what was written, and beside it only nulls and the schema."""
    if isinstance(data, dict):
        more = {key: value for key, value in written.items() if key not in data and key != "schema"}
        return not any(more.values()) and all(_says(value, written[key]) for key, value in data.items())
    if isinstance(data, list):
        return len(data) == len(written) and all(map(_says, data, written))
    return bool(data == written)


def test_what_was_not_run_or_not_asked_for_is_left_out() -> None:
    assert plain(NOT_RUN) == {"reference": "not run", "positions": 0, "max_relative_error": None,
                              "argmax_agreement": None, "kl_nats": None, "passed": None}
    assert "rule" not in plain(Gate(name="a", limit=None, value=None, passed=None))
    proof = validate.FORM.parse(validation()).graph
    assert not {"fault", "few_bits_kept"} & plain(proof).keys()
    assert plain(replace(proof, passed=False))["fault"] is None
    timed = bench.FORM.parse(benchmark())
    assert not {"peers", "gpu"} & {*bench.FORM.document(timed), *plain(timed.environment)}
    on_a_card = replace(timed.environment, gpu_states=[None, None])
    assert plain(on_a_card)["gpu"] is None  # the driver told nothing


def test_receipts_without_a_schema_are_read() -> None:
    assert receipts.FORM.parse([RECEIPT]) == receipts.FORM.parse({"receipts": [RECEIPT]})


def test_benches_that_earlier_versions_wrote_are_read(root: Path) -> None:
    found = json.loads((root / "benchmarks" / "results" / "cpu_speed.json").read_text())["benches"]
    read = {name: bench.FORM.parse(data) for name, data in found.items()}
    assert len(read) >= 5
    for name, report in read.items():
        assert [row.ratio for row in report.speedups] == [row["ratio"] for row in found[name]["speedups"]]
        assert not report.failed


@pytest.mark.parametrize(("path", "value", "says"), [
    (("schema",), "foldrank.validate/2", r"schema is 'foldrank.validate/2', this version reads 'foldrank.validate/1'"),
    (("quality", "tokens"), 1.5, "quality.tokens: Input should be a valid integer"),
    (("quality", "kl_nats"), "0.1", "quality.kl_nats: Input should be a valid number"),
    (("graph", "passed"), 1, "graph.passed: Input should be a valid boolean"),
    (("graph", "checks"), [{"name": "reference"}], "graph.checks.0.positions: Field required"),
    (("verdict",), "maybe", "verdict: Input should be 'pass' or 'fail'"),
    (("qualty",), {}, "qualty: Unexpected keyword argument"),
])
def test_what_does_not_fit_is_named_with_the_way_out(path: tuple[str, ...], value: Any, says: str) -> None:
    data = copy.deepcopy(validation())
    inside = data
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    with pytest.raises(BundleError, match=rf"reports/validate.json: {says}.*; run `foldrank validate` again"):
        validate.FORM.parse(data)


@pytest.mark.parametrize("data", [None, 3, "text", [], {}, [1], [{"pass": "a"}]])
def test_another_form_is_refused(data: Any) -> None:
    for form in (validate.FORM, bench.FORM):
        with pytest.raises(BundleError):
            form.parse(data)
    if data != []:  # a plan that changed nothing, before receipts had a schema
        with pytest.raises(BundleError):
            receipts.FORM.parse(data)


def test_the_headline_is_decoding_at_the_smallest_batch_after_the_shortest_prompt() -> None:
    speedups = bench.FORM.parse(benchmark()).speedups
    assert bench.headline(speedups) == speedups[1]
    assert bench.headline([*speedups[2:], replace(speedups[1], batch=4)]) == speedups[4]
    with pytest.raises(ValueError, match=r".*"):
        bench.headline(speedups[:1])
