"""Tables for spreadsheets: no label of a stranger is a formula there."""

from __future__ import annotations

import csv
import io

import pytest

from pipeline.core.files import csv_text


@pytest.mark.parametrize("label", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", '=HYPERLINK("http://x")'])
def test_a_label_that_begins_like_a_formula_is_text(label: str) -> None:
    (_, (name, number, text)) = csv.reader(
        io.StringIO(csv_text(["label", "a", "b"], [[label, -0.5, "-0.25"]]), newline="")
    )
    assert name == f"'{label}"
    assert (number, text) == ("-0.5", "-0.25")  # numbers stay numbers


def test_other_labels_stay_as_they_are_and_none_is_empty() -> None:
    assert csv_text(["a"], [["happy-go-lucky"], [None], ["a=b"], [-1e-9]]) == 'a\nhappy-go-lucky\n""\na=b\n-1e-09\n'
