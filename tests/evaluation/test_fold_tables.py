"""Tables of methods in folds: two kinds of spread apart, marks by valid tests alone, bounds last and unmarked."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pipeline.evaluation.cells import Table
from pipeline.evaluation.fold_results import bounds_over_folds, method_over_folds
from pipeline.evaluation.fold_tables import fold_tables
from pipeline.evaluation.report.figures import measures_figure
from pipeline.evaluation.significance import fold_tests, holm
from pipeline.evaluation.table_formats import Bold, table_latex, table_markdown

FOLDS = ["fold1", "fold2", "fold3", "fold4"]
RATIO = 1 / 2
HARD = 0.1 * np.random.default_rng(0).standard_normal(len(FOLDS))  # folds that all methods find hard


def measured(
    tau: float, seed: int, *, seeds: int = 5, noise: float = 0.01, uar: float | None = None
) -> dict[str, dict[str, Any]]:
    """What was measured of one method: AOC about `tau`, VOC .1 above, by rated words .2 below, MMD 1 - tau."""
    draw = np.random.default_rng(seed)
    found: dict[str, dict[str, Any]] = {}
    for place, fold in enumerate(FOLDS):
        own = noise * draw.standard_normal((seeds, 5)) + HARD[place]
        by_seed = {}
        for s in range(seeds):
            values = own[s]
            by_seed[str(s)] = {
                "ordinality": {"aoc": measure(tau + values[0]), "voc": measure(tau + 0.1 + values[1])},
                "word_norms": {"aoc": measure(tau - 0.2 + values[2]), "voc": measure(tau - 0.1 + values[3])},
                "alignment": {"mmd": measure(1 - tau - values[4]), "trials": 3, "pairs": 20},
            }
        found[fold] = {"evaluation": by_seed["0"] | {"seeds": by_seed}}
        if uar is not None:
            found[fold]["recognition"] = {"seeds": {str(s): recognised(uar, draw) for s in range(seeds)}}
    return found


def measure(mean: float) -> dict[str, Any]:
    return {"mean": float(mean), "std": 0.2, "convention": "as it is taken"}


def recognised(uar: float, draw: np.random.Generator) -> dict[str, Any]:
    right = draw.binomial(20, uar, 2).tolist()
    confusion = [[right[0], 20 - right[0]], [20 - right[1], right[1]]]
    facts = {"chance": 0.5, "majority": 0.5, "classes": ["calm", "sad"], "template": "{emotion}", "n": 40}
    facts |= {"left_out": 1, "confusion": confusion, "convention": "nearest prompt"}
    return facts | dict.fromkeys(("war", "uar"), sum(right) / 40)


def reference_rows() -> dict[str, dict[str, Any]]:
    """What `reference_results` returns of each fold, of order alone."""
    rows: dict[str, dict[str, Any]] = {}
    for fold, hard in zip(FOLDS, HARD, strict=True):
        rows[fold] = {"chance": {"ordinality": {key: measure(0.0) | {"std": 0.1 + hard} for key in ("aoc", "voc")}}}
        for name, tau in (("ceiling", 0.9), ("labels", 0.95)):
            one = measure(tau + hard) | {"convention": "the true point asked"}
            found = {"ordinality": {"aoc": one, "voc": one}}
            rows[fold][name] = found | {"seeds": {"0": found}}
    return rows


def summary_of(
    methods: dict[str, Any], seeds: int = 5, references: dict[str, dict[str, Any]] | None = None
) -> dict[str, Any]:
    results = {name: method_over_folds(of, range(seeds), ratio=RATIO) for name, of in methods.items()}
    return {
        "methods": results,
        "references": bounds_over_folds(references or {}, next(iter(results.values())), ratio=RATIO),
        "resampling_ratio": RATIO,
        "utterances": 4 * 41,
        "folds": {fold: {} for fold in FOLDS},
        "notes": [],
    }


def three(**options: Any) -> dict[str, Any]:
    """`good` is best throughout, `near` hardly worse, `far` clearly."""
    near = measured(0.55, 5, noise=0.03, **options)
    return {"far": measured(0.2, 1, **options), "good": measured(0.55, 2, **options), "near": near}


def tables_of(summary: dict[str, Any]) -> dict[str, Table]:
    return {table.name: table for table in fold_tables(summary)}


def test_cells_have_the_mean_both_kinds_of_spread_and_the_best_in_bold() -> None:
    summary = summary_of(three())
    tables = tables_of(summary)
    assert list(tables) == ["ordinality", "alignment"]
    table = tables["ordinality"]
    assert table.texts().headers[:5] == ["method", "AOC ↑", "VOC ↑", "AOC, rated words ↑", "VOC, rated words ↑"]
    cells = {row[0]: row[1:] for row in table.texts().rows}
    for method, place, test, key in (("far", 0, "ordinality", "aoc"), ("far", 3, "word_norms", "voc")):
        entry = summary["methods"][method][test][key]
        shown = f"{entry['mean']:.3f} ± {entry['fold_std']:.3f} ({entry['seed_std']:.3f})"
        assert cells[method][place].split(" †")[0] == shown
    assert isinstance(cells["good"][0], Bold)
    assert cells["good"][0].startswith("0.5")
    assert tables["alignment"].rows["good"]["mmd"].best  # the lowest
    assert [cell.best for cell in (tables["alignment"].rows[name]["mmd"] for name in ("far", "near"))] == [False, False]


def test_every_pair_is_tested_by_seeds_and_by_folds_and_corrected_over_all_pairs() -> None:
    summary = summary_of(three())
    entries = {name: of["ordinality"]["aoc"] for name, of in summary["methods"].items()}
    pairs = list(combinations(entries, 2))
    table = tables_of(summary)["ordinality"]
    by_seed = [
        stats.ttest_ind(entries[a]["seed_values"], entries[b]["seed_values"], equal_var=False).pvalue for a, b in pairs
    ]
    by_fold = [test.p for test in fold_tests({of: entry["fold_values"] for of, entry in entries.items()}, ratio=RATIO)]
    tests = table.tests["aoc"]
    for found, raw in ((tests["seeds"], by_seed), (tests["folds"], by_fold)):
        assert [(test.method, test.other) for test in found] == pairs
        assert [test.p for test in found] == pytest.approx(raw, rel=1e-9)
        assert [test.corrected for test in found] == pytest.approx(holm(raw).tolist(), rel=1e-9)
    far, near = (table.rows[name]["aoc"] for name in ("far", "near"))
    assert (far.marks, near.marks) == ("†‡", "")
    assert far.speech_test is not None
    assert (far.speech_test.method, far.speech_test.other) == ("far", "good")
    assert far.speech_test.difference == pytest.approx(entries["far"]["mean"] - entries["good"]["mean"])
    as_json = table.as_json()
    assert as_json["rows"]["far"]["aoc"]["folds_p_corrected"] == far.speech_test.corrected
    assert as_json["rows"]["far"]["aoc"]["against"] == "good"
    assert [len(of) for of in as_json["tests"]["aoc"].values()] == [3, 3]
    notes = "\n".join(table.notes)
    assert "†: other trainings of the best are better too, on these folds; p < 0.05 two-tailed, Holm-corrected" in notes
    assert "‡: the best is better on other speech too" in notes
    assert "Nadeau and Bengio" in notes


def test_folds_that_disagree_have_no_mark_of_other_speech() -> None:
    """Every seed says the same, folds do not: other trainings would be better on these folds, that is all."""
    one, two = measured(0.5, 1, noise=0.001), measured(0.47, 2, noise=0.001)
    for fold, shift in zip(FOLDS, (0.08, -0.07, 0.06, -0.06), strict=True):
        for found in two[fold]["evaluation"]["seeds"].values():
            found["ordinality"]["aoc"]["mean"] += shift
    cell = tables_of(summary_of({"one": one, "two": two}))["ordinality"].rows["two"]["aoc"]
    assert cell.marks == "†"
    assert cell.speech_test is not None
    assert cell.speech_test.p > 0.3


def test_few_seeds_are_not_tested_and_one_has_no_std() -> None:
    table = tables_of(summary_of(three(seeds=4), seeds=4))["ordinality"]
    assert "not tested over seeds below 5 (4 of far, 4 of good, 4 of near)" in "\n".join(table.notes)
    assert table.rows["far"]["aoc"].marks == "‡"
    assert not any("†" in note for note in table.notes)
    single = tables_of(summary_of(three(seeds=1), seeds=1))["ordinality"]
    assert "(" not in single.rows["far"]["aoc"].text(3)
    assert "of each fold's mean over seeds; one seed" in "\n".join(single.notes)
    alone = tables_of(summary_of({"far": measured(0.2, 1)}))["ordinality"]
    assert alone.rows["far"]["aoc"].marks == ""
    assert alone.tests["aoc"]["folds"] == ()


def test_bounds_come_last_and_are_neither_best_nor_marked_nor_tested() -> None:
    table = tables_of(summary_of(three(), references=reference_rows()))["ordinality"]
    assert list(table.rows) == ["far", "good", "near", "ceiling", "labels", "chance"]
    assert table.rows["good"]["aoc"].best
    for name in ("ceiling", "labels", "chance"):
        cell = table.rows[name]["aoc"]
        assert not cell.best
        assert cell.marks == ""
        assert cell.seed_test is cell.speech_test is None
    assert len(table.tests["aoc"]["folds"]) == 3
    ceiling, chance = (table.rows[name]["aoc"] for name in ("ceiling", "chance"))
    assert ceiling.text(3) == f"{0.9 + HARD.mean():.3f} ± {HARD.std(ddof=1):.3f}"  # one seed
    assert ceiling.elsewhere is not None
    draws = np.random.default_rng(0).normal(0, 0.1 + HARD, (50_000, len(FOLDS))).mean(axis=1)  # of one seed's mean
    assert chance.chance_range == pytest.approx(np.percentile(draws, (2.5, 97.5)), abs=0.003)
    assert chance.text(3) == f"{chance.chance_range[0]:.3f} to {chance.chance_range[1]:.3f}"
    assert chance.elsewhere is None
    notes = "\n".join(table.notes)
    assert "ceiling: what the speech vectors hold" in notes
    assert "chance: no order; 95 % of what one seed's mean over folds would be with the labels shuffled" in notes


def test_recognition_is_a_mean_over_folds_and_pooled_and_may_be_lacking() -> None:
    summary = summary_of({"b": measured(0.3, 2, uar=0.8), "c": measured(0.3, 3, uar=0.3), "a": measured(0.3, 1)})
    table = tables_of(summary)["recognition"]
    assert list(table.rows) == ["b", "c", "chance"]
    margin = 1.96 * np.sqrt(0.5 * 0.5 / 160)  # every label of the four folds guessed
    for key in ("war", "uar", "pooled_war", "pooled_uar"):
        assert table.rows["chance"][key].chance_range == pytest.approx((0.5 - margin, 0.5 + margin))
    assert table.texts().headers == ["method", "WAR ↑", "UAR ↑", "WAR, pooled ↑", "UAR, pooled ↑"]
    found = summary["methods"]["b"]["recognition"]
    assert table.rows["b"]["pooled_uar"].text(3) == (
        f"{found['pooled']['uar']['mean']:.3f} ({found['pooled']['uar']['seed_std']:.3f})"
    )
    assert table.rows["c"]["pooled_uar"].marks == "†"  # of all folds together, there are none to compare
    assert table.rows["c"]["uar"].marks == "†‡"
    assert "n = 160 utterances, each is tested once; left out: 4 without an emotion" in table.notes
    assert "always the most frequent class: WAR 0.500 of all folds, UAR 0.500" in table.notes


def test_the_measures_of_other_conventions_are_not_compared() -> None:
    methods = three()
    for found in methods["far"].values():
        for seed in found["evaluation"]["seeds"].values():
            seed["alignment"]["mmd"]["convention"] = "another width"
    table = tables_of(summary_of(methods))["alignment"]
    assert "MMD: not tested, the conventions differ" in table.notes
    assert not any(row["mmd"].marks for row in table.rows.values())


def test_a_table_goes_into_markdown_latex_and_a_figure() -> None:
    table = tables_of(summary_of(three(), references=reference_rows()))["ordinality"]
    assert "\n| far " in table_markdown(table.texts())
    assert r"$^\dagger$$^\ddagger$" in table_latex(table.texts())
    figure = measures_figure(table)
    assert figure.name == "measures_ordinality"
    rows = [dict(zip(figure.columns, row, strict=True)) for row in figure.rows]
    row = next(row for row in rows if (row["method"], row["measure"]) == ("far", "aoc"))
    cell = table.rows["far"]["aoc"]
    assert (row["mean"], (row["low"], row["high"])) == (cell.mean, cell.elsewhere)
    assert {row["method"] for row in rows} == {"far", "good", "near", "ceiling", "labels", "chance"}
    assert "over folds (corrected resampled t)" in figure.caption
