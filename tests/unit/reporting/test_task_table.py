"""Tasks on the page, the card and the terminal: where they were run all of it stands there, else nothing of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sample_reports import validation

from foldrank.cli import results
from foldrank.reporting import task_table
from foldrank.reporting.card_measured import quality
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.section_quality import quality as section
from foldrank.reports.tasks import Accuracy, Chat, Sample, TaskRow, Tasks
from foldrank.reports.validate import FORM, Validation

TASKS = Tasks(
    rows=[TaskRow(task="cloze", backend="onnxruntime", metric="acc", items=100, dense=Accuracy(
        accuracy=0.62, standard_error=0.0488), bundle=Accuracy(accuracy=0.59, standard_error=0.0494), difference=-0.03,
        ci95=[-0.08, 0.01])],
    chat=Chat(questions=8, templated=False, tokens=350, equal=0.4, prefix_tokens=12.5,
              samples=[Sample(prompt="Why?", dense="Because.", bundle="<b>Since</b>.")]),
    choices=4, seed=3, lm_eval="0.4.13", missing={"onnxruntime-genai": "is not installed"},
)


@pytest.fixture
def found() -> Validation:
    return replace(FORM.parse(validation()), tasks=TASKS)


def test_a_row_holds_both_accuracies_and_their_difference_in_points() -> None:
    assert task_table.rows(TASKS) == [
        ("cloze", "onnxruntime", "100", "62.0 % ± 4.9", "59.0 % ± 4.9", "-3.0 (-8.0 to +1.0)")]
    assert "a guess is right in 1 of 4" in task_table.note(TASKS)
    assert "put without a chat template, this bundle wrote 40.0 % in the same place, 12.5 in a row" in task_table.chat(
        TASKS)


def test_page_and_card_show_them_where_they_were_run(found: Validation) -> None:
    card, page = quality(found), section(Evidence({}, {}, validate=found))
    assert "59.0 % ± 4.9" in card
    assert "40.0 % in the same place" in card
    assert [part for part in page.parts if "59.0 % ± 4.9" in str(part)]
    assert [part for part in page.parts if "Because." in str(part)]
    assert "lm-eval" not in quality(replace(found, tasks=None))


def test_the_terminal_shows_them(found: Validation, capsys: pytest.CaptureFixture[str]) -> None:
    results.show_validation(found)
    said = capsys.readouterr().out
    for words in ("cloze", "-3.0", "onnxruntime-genai: unavailable (is not installed)", "40.0% are written"):
        assert words in " ".join(said.split())


def test_the_report_holds_them_only_where_they_were_run(found: Validation) -> None:
    assert FORM.parse(FORM.document(found)) == found
    assert "tasks" not in FORM.document(replace(found, tasks=None))


def test_the_terminal_shows_what_both_write_after_the_same_words(capsys: pytest.CaptureFixture[str]) -> None:
    """As it is, whatever looks like markup, in one line each."""
    results.show_written([Sample(prompt="A\nvalve opens", dense=" [b]and", bundle=" [/b] or")] * 3)
    assert capsys.readouterr().out.splitlines() == ["after  A valve opens", "dense  [b]and", "bundle [/b] or"] * 2
