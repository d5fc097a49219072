"""Retrieval, read-outs and the order of speech alone in a comparison, beside frozen vectors and chance."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pipeline.evaluation.comparison import comparison_tables
from pipeline.evaluation.significance import holm
from pipeline.evaluation.tables import evaluation_tables, with_chance
from tests.evaluation.results import bound, pooled, result

TESTS = {
    "retrieval": ["speech_to_text_r10", "text_to_speech_r10", "speech_to_text_map", "text_to_speech_map"],
    "readout": ["valence_ccc", "arousal_ccc", "dominance_ccc", "category_uar"],
    "speech_ordinality": ["valence_tau", "arousal_tau", "dominance_tau", "plane_tau"],
}


def measured(level: float, seed: int, *, seeds: int = 6) -> dict[str, Any]:
    """An evaluation whose figures lie about `level`; its other measures of these tests stand in none of the tables."""
    draw = np.random.default_rng(seed)
    found = result(level, 0.1, seed, seeds=seeds)
    for test, measures in TESTS.items():
        found[test] = {
            key: pooled(level + 0.01 * draw.standard_normal(seeds), f"{key} of these") | {"chance": 0.05}
            for key in measures
        }
    found["retrieval"]["speech_to_text_r1"] = pooled(np.full(seeds, 0.1), "other") | {"chance": 0.01}
    return found


def three() -> dict[str, dict[str, Any]]:
    return {"far": measured(0.3, 1), "best": measured(0.5, 2), "close": measured(0.497, 3)}


def test_every_column_is_tested_over_seeds_as_scipy_does_and_on_no_other_speech() -> None:
    results = three()
    tables = {table.name: table for table in comparison_tables(results).tables}
    assert list(tables)[-3:] == list(TESTS)
    for test, measures in TESTS.items():
        table = tables[test]
        assert [column.key for column in table.columns] == measures
        assert all(header.endswith("↑") for header in table.texts().headers[1:])
        assert "not tested on other speech, no resamples of speakers" in table.notes
        for key in measures:
            values = {name: found[test][key]["seed_values"] for name, found in results.items()}
            pairs = list(combinations(values, 2))
            raw = [stats.ttest_ind(values[a], values[b], equal_var=False).pvalue for a, b in pairs]
            found = {(each.method, each.other): each for each in table.tests[key]["seeds"]}
            for pair, p, corrected in zip(pairs, raw, holm(raw), strict=True):
                assert found[pair].p == pytest.approx(p, abs=1e-10)
                assert found[pair].corrected == pytest.approx(corrected, abs=1e-10)
                assert found[pair].difference == pytest.approx(np.mean(values[pair[0]]) - np.mean(values[pair[1]]))
            assert table.rows["far"][key].marks == "†"
            assert table.rows["best"][key].std == pytest.approx(np.std(values["best"], ddof=1))
            assert table.tests[key]["speakers"] == []


def test_frozen_vectors_and_chance_stand_below_and_take_no_part() -> None:
    frozen = {test: {key: pooled(np.array([0.9]), "frozen") for key in TESTS[test]} for test in list(TESTS)[1:]}
    tables = {
        table.name: table
        for table in comparison_tables(with_chance({**three(), "ceiling": bound(0.9, "asked") | frozen})).tables
    }
    assert list(tables["retrieval"].rows)[3:] == ["chance"]
    for test in ("readout", "speech_ordinality"):
        table = tables[test]
        assert list(table.rows)[3:] == ["ceiling", "chance"]
        assert any(note.startswith("ceiling: the same of the frozen vectors") for note in table.notes)
        for key in TESTS[test]:
            assert (table.rows["ceiling"][key].mean, table.rows["chance"][key].mean) == (0.9, 0.05)
            assert not table.rows["ceiling"][key].best
            assert {name for test in table.tests[key]["seeds"] for name in (test.method, test.other)} == set(three())


def test_below_five_seeds_they_are_shown_and_not_tested() -> None:
    tables = comparison_tables({"a": measured(0.3, 1, seeds=2), "b": measured(0.5, 2, seeds=2)}).tables
    (table,) = [each for each in tables if each.name == "readout"]
    assert table.tests["valence_ccc"]["seeds"] == ()
    assert "not tested below 5 seeds (2 of each)" in table.notes


def test_an_evaluation_has_them_in_its_own_table_alone() -> None:
    assert not {table.name for table in evaluation_tables(three())} & TESTS.keys()
